//! Encrypted connections of `spindle nbd` and of images over NBD: among ourselves, and with QEMU's tools where they are
//! installed. The certificates are made by openssl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A directory with the credentials of a server and two clients: one that the server's authority knows, and a stranger.
struct Place(tempfile::TempDir);

fn openssl(dir: &Path, args: &[&str]) {
    let done = Command::new("openssl").args(args).current_dir(dir).output();
    let done = done.expect("openssl is needed (Debian: openssl)");
    assert!(done.status.success(), "openssl {args:?}: {done:?}");
}

/// An authority: `ca-cert.pem` and `ca-key.pem`.
fn authority(dir: &Path) {
    fs::create_dir_all(dir).expect("a directory");
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let mut args = vec!["req", "-x509", "-days", "30", "-subj", "/CN=authority"];
    args.extend(key);
    args.extend(["-keyout", "ca-key.pem", "-out", "ca-cert.pem"]);
    args.extend(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
    openssl(dir, &args);
}

/// A certificate that the authority in `dir` signs, for the party `who`, in the directory `to`.
fn certificate(dir: &Path, to: &Path, who: &str) {
    fs::create_dir_all(to).expect("a directory");
    let extensions = format!(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
         extendedKeyUsage={who}Auth\nsubjectAltName=DNS:disks.example\n"
    );
    fs::write(to.join("extensions"), extensions).expect("a file");
    let (key, cert) = (format!("{who}-key.pem"), format!("{who}-cert.pem"));
    let mut args = vec!["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    args.extend(["-keyout", &key, "-out", "request", "-subj", "/CN=somebody"]);
    openssl(to, &args);
    let at = |name: &str| dir.join(name).to_str().expect("text").to_owned();
    let (ca, ca_key) = (at("ca-cert.pem"), at("ca-key.pem"));
    let mut args = vec!["x509", "-req", "-in", "request", "-days", "30", "-out", &cert];
    args.extend(["-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-extfile", "extensions"]);
    openssl(to, &args);
    if to != dir {
        fs::copy(dir.join("ca-cert.pem"), to.join("ca-cert.pem")).expect("a file");
    }
}

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        let (known, other) = (place.at("authority"), place.at("other"));
        authority(&known);
        authority(&other);
        certificate(&known, &place.at("server"), "server");
        certificate(&known, &place.at("client"), "client");
        // It trusts the server, and the server does not trust it.
        certificate(&other, &place.at("stranger"), "client");
        fs::copy(known.join("ca-cert.pem"), place.at("stranger/ca-cert.pem")).expect("a file");
        // It trusts somebody else, and has no certificate.
        fs::create_dir(place.at("doubter")).expect("a directory");
        fs::copy(other.join("ca-cert.pem"), place.at("doubter/ca-cert.pem")).expect("a file");
        fs::write(place.at("disk"), [[1_u8; 4096], [2; 4096]].concat()).expect("a file");
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn object(&self, dir: &str, endpoint: &str) -> String {
        format!("tls-creds-x509,id=tls,endpoint={endpoint},dir={}", self.at(dir).display())
    }

    /// Starts a server, of `program` with the words before its own.
    fn serve(&self, program: &str, first: &[&str], more: &str) -> Serving {
        let socket = self.at("socket");
        let object = format!("{}{more}", self.object("server", "server"));
        let socket_text = socket.to_str().expect("text");
        let args =
            ["--object", &object, "--tls-creds", "tls", "-t", "-f", "raw", "-k", socket_text];
        let mut command = self.command(program, &[first, &args, &["disk"]].concat());
        let server = Serving(command.spawn().expect("a server"), socket);
        let end = Instant::now() + Duration::from_secs(30);
        while !server.1.exists() {
            assert!(Instant::now() < end, "no server");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Reads and writes the disk as the client that `dir` is about; `name`: whom it wants.
    fn visit(&self, program: &str, first: &[&str], dir: Option<&str>, name: &str) -> Output {
        let object = self.object(dir.unwrap_or("client"), "client");
        let mut image =
            format!("driver=nbd,server.type=unix,server.path={}", self.at("socket").display());
        let mut args = first.to_vec();
        if dir.is_some() {
            args.extend(["--object", &object]);
            image.push_str(",tls-creds=tls");
        }
        if !name.is_empty() {
            image.push_str(&format!(",tls-hostname={name}"));
        }
        args.extend(["--image-opts", &image, "-c", "read -P 2 4k 4k", "-c", "write -P 1 0 4k"]);
        self.command(program, &args).output().expect("a client")
    }
}

struct Serving(Child, PathBuf);

impl Drop for Serving {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_file(&self.1);
    }
}

const SPINDLE: &str = env!("CARGO_BIN_EXE_spindle");

fn installed(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        eprintln!("{tool} is not installed: it is not compared with");
    }
    found
}

/// The server tells who may come in from who may not, whoever asks.
fn clients(place: &Place, program: &str, first: &[&str]) {
    for (dir, name, good) in [
        (Some("client"), "disks.example", true),
        (Some("client"), "other.example", false),
        // At a local socket there is no name to be had.
        (Some("client"), "", false),
        (Some("stranger"), "disks.example", false),
        (Some("doubter"), "disks.example", false),
        (None, "", false),
    ] {
        let done = place.visit(program, first, dir, name);
        assert_eq!(done.status.success(), good, "{program} {dir:?} '{name}': {done:?}");
    }
}

#[test]
fn only_those_whom_each_other_trusts_meet() {
    let place = Place::new();
    let server = place.serve(SPINDLE, &["nbd"], "");
    clients(&place, SPINDLE, &["io"]);
    if installed("qemu-io") {
        clients(&place, "qemu-io", &[]);
    }
    let socket = place.at("socket");
    let list = |program: &str, first: &[&str], dir: Option<&str>| {
        let object = place.object(dir.unwrap_or("client"), "client");
        let mut args = [first, &["-L", "-k", socket.to_str().expect("text")]].concat();
        if dir.is_some() {
            args.extend(["--object", &object, "--tls-creds", "tls"]);
            args.extend(["--tls-hostname", "disks.example"]);
        }
        place.command(program, &args).output().expect("a client")
    };
    let ours = list(SPINDLE, &["nbd"], Some("client"));
    let text = String::from_utf8_lossy(&ours.stdout).into_owned();
    assert!(ours.status.success() && text.contains("export: ''"), "{ours:?}");
    for dir in [None, Some("stranger"), Some("doubter")] {
        let done = list(SPINDLE, &["nbd"], dir);
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && error.contains("Failed to list exports"), "{done:?}");
    }
    drop(server);
    let server = place.serve(SPINDLE, &["nbd"], ",verify-peer=off");
    let done = place.visit(SPINDLE, &["io"], Some("stranger"), "disks.example");
    assert!(done.status.success(), "who has to show nothing: {done:?}");
    let object = format!("{},verify-peer=off", place.object("doubter", "client"));
    let image =
        format!("driver=nbd,server.type=unix,server.path={},tls-creds=tls", socket.display());
    let args = ["io", "--object", &object, "--image-opts", &image, "-c", "read -P 2 4k 4k"];
    let done = place.command(SPINDLE, &args).output().expect("a client");
    assert!(done.status.success(), "who believes anybody: {done:?}");
    drop(server);
    assert_eq!(fs::read(place.at("disk")).expect("a file"), [[1_u8; 4096], [2; 4096]].concat());
}

#[test]
fn servers_of_others_are_visited() {
    if !installed("qemu-nbd") {
        return;
    }
    let place = Place::new();
    let server = place.serve("qemu-nbd", &[], "");
    clients(&place, SPINDLE, &["io"]);
    drop(server);
}

/// Many requests both ways at once: whoever reads and whoever writes share a session.
#[test]
fn much_goes_both_ways() {
    let place = Place::new();
    fs::write(place.at("disk"), vec![0; 64 << 20]).expect("a file");
    let _server = place.serve(SPINDLE, &["nbd"], "");
    let image = format!(
        "driver=nbd,server.type=unix,server.path={},tls-creds=tls,tls-hostname=disks.example",
        place.at("socket").display()
    );
    let object = place.object("client", "client");
    let mut args = vec!["io", "--object", &object, "--image-opts", &image];
    let commands: Vec<String> = (0..16)
        .flat_map(|n| {
            let (to, from) = (n * 4, (n * 4 + 32) % 64);
            [format!("aio_write -q -P {} {to}M 4M", n + 1), format!("aio_read -q {from}M 4M")]
        })
        .chain(["aio_flush".to_owned()])
        .chain((0..16).map(|n| format!("read -P {} {}M 4M", n + 1, n * 4)))
        .collect();
    commands.iter().for_each(|command| args.extend(["-c", command]));
    let done = place.command(SPINDLE, &args).output().expect("spindle");
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn mistakes_are_named_in_the_words_of_qemu_nbd() {
    let place = Place::new();
    let server = place.object("server", "server");
    let client = place.object("client", "client");
    let nothing = place.object("authority", "server");
    for (args, sentence) in [
        (
            &["--tls-creds", "x", "disk"][..],
            "Failed to get TLS creds: No TLS credentials with id 'x'",
        ),
        (&["--object", &client, "--tls-creds", "tls", "disk"], "with a server endpoint"),
        (&["-L", "--object", &server, "--tls-creds", "tls"], "with a client endpoint"),
        (&["--object", &nothing, "disk"], "server-cert.pem: No such file or directory"),
        (&["--tls-authz", "x", "disk"], "--tls-authz is not permitted without --tls-creds"),
        (&["--tls-hostname", "x", "disk"], "--tls-hostname is not permitted without --tls-creds"),
        (
            &["--object", &server, "--tls-creds", "tls", "--tls-hostname", "x", "disk"],
            "TLS hostname is only supported with export list",
        ),
        (
            &["--object", &server, "--tls-creds", "tls", "-c", "/dev/nbd0", "disk"],
            "TLS is not supported with a host device",
        ),
        (
            &["-L", "--object", &client, "--tls-creds", "tls", "--tls-authz", "x"],
            "TLS authorization is incompatible with export list",
        ),
    ] {
        let all = [&["nbd", "-f", "raw"][..], args].concat();
        let done = place.command(SPINDLE, &all).output().expect("spindle");
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(1) && error.contains(sentence), "{args:?}: {error}");
    }
}
