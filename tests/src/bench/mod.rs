//! `make bench`: figures against the peer, interleaved in one run, as medians and ratios.

pub mod boot;
pub mod guest;
pub mod img;
pub mod in_process;
pub mod kvm_stats;
pub mod process;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Our median (or the one value, where it does not vary).
    pub ours: f64,
    /// The peer's.
    pub peer: Option<f64>,
    /// The unit of both.
    pub unit: String,
    /// What was aimed at.
    pub goal: Goal,
}

/// What a figure has to reach.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Goal {
    /// Ours over the peer's at least this.
    RatioAtLeast(f64),
    /// The same for a figure that a guest takes. `null` is the ratio on a disk that takes no time:
    /// where that one doesn't reach the goal, nine tenths of it do, since the machine is the limit
    /// and not the disk.
    RatioAtLeastOrNull {
        /// The ratio aimed at.
        goal: f64,
        /// The ratio of the same figure on `null`.
        null: f64,
    },
    /// Ours over the peer's at most this.
    RatioAtMost(f64),
    /// Ours at most this.
    AtMost(f64),
    /// Shown, not judged.
    None,
}

impl Row {
    /// Ours over the peer's.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        self.peer.filter(|p| *p > 0.0).map(|p| self.ours / p)
    }

    /// The least ratio that counts as met, where the goal is one.
    fn needed(&self) -> Option<f64> {
        match self.goal {
            Goal::RatioAtLeast(goal) => Some(goal),
            Goal::RatioAtLeastOrNull { goal, null } => {
                Some(if null < goal { 0.9 * null } else { goal })
            }
            Goal::RatioAtMost(_) | Goal::AtMost(_) | Goal::None => None,
        }
    }

    /// Whether the goal is met; a ratio without a peer is not.
    #[must_use]
    pub fn met(&self) -> bool {
        match self.goal {
            Goal::RatioAtLeast(goal) => self.ratio().is_some_and(|r| r >= goal),
            Goal::RatioAtLeastOrNull { .. } => {
                self.ratio().zip(self.needed()).is_some_and(|(r, needed)| r >= needed)
            }
            Goal::RatioAtMost(goal) => self.ratio().is_some_and(|r| r <= goal),
            Goal::AtMost(goal) => self.ours <= goal,
            Goal::None => true,
        }
    }
}

/// The rows as a table for people.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0);
    let _ = writeln!(
        out,
        "{:width$}  {:>10} {:>10} {:>7} {:>7}  goal",
        "", "spindle", "peer", "ratio", "null"
    );
    for row in rows {
        let peer = row.peer.map_or(String::new(), number);
        let ratio = row.ratio().map_or(String::new(), |r| format!("{r:.2}"));
        let null = match row.goal {
            Goal::RatioAtLeastOrNull { null, .. } => format!("{null:.2}"),
            _ => String::new(),
        };
        let goal = match row.goal {
            Goal::RatioAtLeast(g) | Goal::RatioAtLeastOrNull { goal: g, .. } => {
                format!("≥ {g:.2} ×")
            }
            Goal::RatioAtMost(g) => format!("≤ {g:.2} ×"),
            Goal::AtMost(g) => format!("≤ {}", number(g)),
            Goal::None => String::new(),
        };
        let met = match row.goal {
            Goal::None => "",
            _ if row.met() => "met",
            _ => "MISSED",
        };
        let ours = number(row.ours);
        let (name, unit) = (&row.name, &row.unit);
        let _ = writeln!(
            out,
            "{name:width$}  {ours:>10} {peer:>10} {ratio:>7} {null:>7}  {goal:<10} {met:<7} {unit}"
        );
    }
    out
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// The median of the values.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs `a` and `b` in turn, `rounds` times, and returns the medians.
///
/// # Errors
/// The first failure of either.
pub fn interleave(
    rounds: usize,
    mut a: impl FnMut() -> Result<f64, String>,
    mut b: impl FnMut() -> Result<f64, String>,
) -> Result<(f64, f64), String> {
    let (mut xs, mut ys) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Whoever goes first changes, so that drift favours nobody.
        if round % 2 == 0 {
            xs.push(a()?);
            ys.push(b()?);
        } else {
            ys.push(b()?);
            xs.push(a()?);
        }
    }
    Ok((median(xs), median(ys)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_judge_ratios_and_values() {
        let row =
            |ours, peer, goal| Row { name: String::new(), ours, peer, unit: String::new(), goal };
        assert!(row(95.0, Some(100.0), Goal::RatioAtLeast(0.95)).met());
        assert!(!row(94.0, Some(100.0), Goal::RatioAtLeast(0.95)).met());
        assert!(!row(94.0, None, Goal::RatioAtLeast(0.95)).met());
        assert!(row(0.5, Some(1.0), Goal::RatioAtMost(0.5)).met());
        let on_null = |null| Goal::RatioAtLeastOrNull { goal: 1.2, null };
        assert!(row(120.0, Some(100.0), on_null(2.0)).met());
        assert!(!row(119.0, Some(100.0), on_null(2.0)).met());
        assert!(row(100.0, Some(100.0), on_null(1.1)).met());
        assert!(!row(98.0, Some(100.0), on_null(1.1)).met());
        assert!(!row(1001.0, None, Goal::AtMost(1000.0)).met());
        assert_eq!(median(vec![5.0, 1.0, 3.0]), 3.0);
    }
}
