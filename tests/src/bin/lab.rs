//! `lab -- CMD`: runs a command in the lab as if it ran here.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use spindle_block::error::with_causes;
use spindle_tests::lab::job::Job;
use spindle_tests::lab::{Command, Lab, LabError, Options};

const USAGE: &str = "\
usage: lab [--timeout SECONDS] [--memory MIB] [--share DIR] -- COMMAND [ARGUMENT...]
       lab job OUT SCRIPT [FILE...]

The first form runs COMMAND in the lab, with this directory, environment, standard input, output and error,
and ends with its exit status; 124 if it takes longer than SECONDS (default 600). The lab sees this
machine's files read-only, with a tmpfs on top; it has a disk for images at /lab and may write DIR.

The second writes an initramfs archive OUT with SCRIPT as the guest's job and FILEs beside it in job/;
append it to a guest image's initramfs.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("job") => write_job(&arguments[1..]).map(|()| 0),
        _ => match parse(&arguments) {
            Some(request) => run(&request),
            None => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        },
    };
    match result {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(125)),
        Err(error) => {
            eprintln!("lab: {}", with_causes(&error));
            ExitCode::from(125)
        }
    }
}

struct Request {
    options: Options,
    limit: Duration,
    command: Vec<String>,
}

fn parse(arguments: &[String]) -> Option<Request> {
    let mut options = Options::default();
    let mut limit = 600;
    let mut rest = arguments.iter();
    loop {
        match rest.next()?.as_str() {
            "--" => break,
            "--timeout" => limit = rest.next()?.parse().ok()?,
            "--memory" => options.memory_mib = rest.next()?.parse().ok()?,
            "--share" => options.share = Some(PathBuf::from(rest.next()?)),
            _ => return None,
        }
    }
    let command: Vec<String> = rest.cloned().collect();
    (!command.is_empty()).then_some(Request { options, limit: Duration::from_secs(limit), command })
}

fn run(request: &Request) -> Result<i32, LabError> {
    let mut lab = Lab::start(&request.options)?;
    lab.attach(&Command::new(request.command.clone()), request.limit)
}

fn write_job(arguments: &[String]) -> Result<(), LabError> {
    let [out, script, files @ ..] = arguments else {
        return Err(LabError::Broken(USAGE.to_owned()));
    };
    let read = |path: &String| std::fs::read(path).map_err(LabError::file("read", path));
    let mut job = Job::new(String::from_utf8_lossy(&read(script)?));
    for path in files {
        let name = path.rsplit('/').next().unwrap_or(path);
        job = job.with_file(name, read(path)?);
    }
    let mut bytes = Vec::new();
    job.write(&mut bytes)
        .and_then(|()| std::fs::write(out, bytes))
        .map_err(LabError::file("write", out))
}
