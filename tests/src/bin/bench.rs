//! `make bench`: every figure that the README quotes, against its peer, in one run.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use spindle_tests::{
    bench::{
        Row, boot,
        guest::{self, Controller},
        img, in_process, table,
    },
    lab::{Command, Lab, Options, RAM_DISK, inside, kvm},
};

const USAGE: &str = "\
usage: bench [in-process] [img] [virtio-blk] [nvme] [virtio-scsi] [ahci] [ide] [sd] [boot] [rounds=N] [dir=DIR] [json=FILE]

Without a part, all of them. The parts named after controllers measure them from inside a guest. Figures with a guest are taken on this machine's KVM where a stock
kernel runs on it, else in the lab.";

struct Request {
    parts: Vec<String>,
    rounds: usize,
    dir: Option<PathBuf>,
    json: Option<PathBuf>,
}

/// The parts, in the order in which they run.
fn parts() -> impl Iterator<Item = &'static str> {
    let controllers = Controller::ALL.into_iter().map(Controller::name);
    ["in-process", "img"].into_iter().chain(controllers).chain(["boot"])
}

fn parse() -> Option<Request> {
    let mut request = Request { parts: Vec::new(), rounds: 5, dir: None, json: None };
    for word in std::env::args().skip(1) {
        match word.split_once('=') {
            Some(("rounds", n)) => request.rounds = n.parse().ok().filter(|n| *n > 0)?,
            Some(("dir", dir)) => request.dir = Some(dir.into()),
            Some(("json", file)) => request.json = Some(file.into()),
            None if parts().any(|part| part == word) => request.parts.push(word),
            _ => return None,
        }
    }
    if request.parts.is_empty() {
        request.parts = parts().map(str::to_owned).collect();
    }
    Some(request)
}

fn main() -> ExitCode {
    let Some(request) = parse() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&request) {
        Ok(rows) => {
            // What runs in the lab hands its rows to whoever started it there, who shows them.
            if request.json.is_none() || !inside() {
                print!("{}", table(&rows));
            }
            if rows.iter().all(Row::met) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(request: &Request) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for part in &request.parts {
        let progress = |what: &str| eprintln!("bench: {part}: {what}");
        let found = if matches!(&**part, "in-process" | "img") {
            let dir = request.dir.clone().unwrap_or_else(|| "build".into());
            std::fs::create_dir_all(&dir)
                .map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
            match &**part {
                "img" => img::run(&dir, request.rounds, progress)?,
                _ => in_process::run(&dir, request.rounds, progress)?,
            }
        } else if inside() || kvm::probe() == kvm::Kvm::Real {
            let scratch =
                tempfile::tempdir().map_err(|e| format!("no temporary directory: {e}"))?;
            let dir = if inside() { Path::new(RAM_DISK) } else { scratch.path() };
            match Controller::ALL.into_iter().find(|controller| controller.name() == part) {
                Some(controller) => guest::run(dir, controller, request.rounds, progress)?,
                None => boot::run(dir, request.rounds, progress)?,
            }
        } else {
            let mut found = Vec::new();
            if part == "boot" && Path::new("/dev/kvm").exists() {
                found = start_here(request.rounds);
            }
            eprintln!("bench: {part}: no usable KVM here, so in the lab");
            found.extend(in_lab(part, request.rounds)?);
            found
        };
        rows.extend(found);
    }
    if let Some(path) = &request.json {
        let text = serde_json::to_string_pretty(&rows).map_err(|e| e.to_string())?;
        std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    Ok(rows)
}

/// The start of a guest on this machine's KVM, which boots no kernel. One that does not come to the kernel's entry
/// either has no figure.
fn start_here(rounds: usize) -> Vec<Row> {
    eprintln!("bench: boot: start to the kernel's first instruction, on this machine's own KVM");
    let scratch = tempfile::tempdir().map_err(|e| format!("no temporary directory: {e}"));
    let rows = scratch.and_then(|dir| boot::start(dir.path(), rounds, ", this machine's KVM"));
    rows.unwrap_or_else(|error| {
        eprintln!("bench: boot: no figures from this machine's own KVM: {error}");
        Vec::new()
    })
}

/// Runs one part of ourselves in a lab of its own and takes its rows back.
fn in_lab(part: &str, rounds: usize) -> Result<Vec<Row>, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut lab = Lab::start(&Options::default()).map_err(|e| e.to_string())?;
    let file = lab.share().join("rows.json");
    let words = [
        "taskset".to_owned(),
        "-c".to_owned(),
        "1,2".to_owned(),
        me.display().to_string(),
        part.to_owned(),
        format!("rounds={rounds}"),
        format!("json={}", file.display()),
    ];
    let status = lab
        .run_shown(&Command::new(words), Duration::from_secs(3000))
        .map_err(|e| e.to_string())?;
    let text = std::fs::read_to_string(&file)
        .map_err(|e| format!("{part} in the lab ended with {status} and no figures: {e}"))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))
}
