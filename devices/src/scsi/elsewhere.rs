//! Commands for units that are no logical units of ours: those that a target does not have, and the
//! REPORT LUNS well known logical unit.

use super::{
    cmd::{Cdb, Command, Transfer, parse},
    exec::{Answer, LunSelect, report_luns},
    inquiry,
    sense::Sense,
    spec::asc,
    unit::UnitKind,
};

/// Whom a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// A unit that its target does not have (SPC-5, 5.5; SAM-5, 4.7).
    NoUnit,
    /// The REPORT LUNS well known logical unit (SPC-5, 8).
    ReportLuns,
}

/// The answer, and the data that the command asks for.
#[must_use]
pub fn answer_elsewhere(
    whom: Elsewhere,
    cdb: &Cdb,
    luns: &dyn Fn(LunSelect) -> Vec<[u8; 8]>,
) -> (Answer, Transfer) {
    let well_known = whom == Elsewhere::ReportLuns;
    let none = Sense::illegal(asc::LUN_NOT_SUPPORTED);
    let refusal = if well_known { Sense::invalid_opcode() } else { none };
    let command = match parse(cdb, UnitKind::Disk) {
        Ok(command) => command,
        Err(sense) if well_known => return (sense.into(), Transfer::None),
        Err(_) => return (none.into(), Transfer::None),
    };
    let answer = match command {
        Command::Inquiry { page: None, allocation } => {
            Answer::reply(inquiry::elsewhere(well_known), allocation)
        }
        Command::Inquiry { .. } if well_known => Sense::cdb_field(2, None).into(),
        Command::ReportLuns { select, allocation } => report_luns(select, luns)
            .map_or_else(Answer::from, |data| Answer::reply(data, allocation)),
        Command::RequestSense { descriptor, allocation } => {
            let sense = if well_known { Sense::none() } else { none };
            Answer::reply(sense.encode(descriptor).as_slice().to_vec(), allocation)
        }
        Command::TestUnitReady if well_known => Answer::good(),
        _ => return (refusal.into(), Transfer::None),
    };
    (answer, command.transfer(0))
}
