//! `spindle nbd` with clients: qemu-img and qemu-io, where they are installed, and one that is up to
//! no good.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a tool of QEMU; `None` where it is not installed.
    fn qemu(&self, tool: &str, args: &[&str]) -> Option<Output> {
        let done = Command::new(tool).args(args).current_dir(self.0.path()).output();
        done.map_err(|_| eprintln!("{tool} is not installed: it is no client here")).ok()
    }

    fn io(&self, args: &[&str]) -> Option<String> {
        let done = self.qemu("qemu-io", args)?;
        assert!(done.status.success(), "qemu-io {args:?}: {done:?}");
        Some(String::from_utf8(done.stdout).expect("text"))
    }

    fn spindle(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spindle"));
        command.args(args).current_dir(self.0.path());
        command
    }

    fn img(&self, args: &[&str]) {
        let done = self.spindle(&[&["img"], args].concat()).output().expect("spindle");
        assert!(done.status.success(), "{args:?}: {done:?}");
    }

    /// Starts a server in the background; it is there when this returns.
    fn serve(&self, args: &[&str]) -> Server {
        let (socket, pid) = (self.at("socket"), self.at("pid"));
        let socket = socket.to_str().expect("text");
        let pid_text = pid.to_str().expect("text");
        let all = [&["nbd", "--fork", "--pid-file", pid_text, "-k", socket], args].concat();
        let done = self.spindle(&all).output().expect("spindle");
        assert!(done.status.success(), "{args:?}: {done:?}");
        let number = fs::read_to_string(&pid).expect("a file");
        Server { pid: number.trim().to_owned(), socket: PathBuf::from(socket) }
    }

    fn url(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.at("socket").display())
    }
}

struct Server {
    pid: String,
    socket: PathBuf,
}

impl Server {
    /// Ends the server, and waits for it.
    fn end(self) {
        let killed = Command::new("kill").arg(&self.pid).status().expect("kill");
        assert!(killed.success());
        self.wait();
    }

    fn wait(&self) {
        let pid = Path::new("/proc").join(&self.pid);
        while alive(&pid) {
            std::thread::yield_now();
        }
        assert!(!self.socket.exists(), "the socket is left behind");
    }
}

/// Whether a process runs; one that nobody has waited for yet does not.
fn alive(proc: &Path) -> bool {
    let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn clients_read_and_write_what_is_in_the_image() {
    let place = Place::new();
    for (format, extra) in [("raw", &["--discard=unmap"][..]), ("qcow2", &["-e", "0"])] {
        let image = format!("disk.{format}");
        place.img(&["create", "-q", "-f", format, &image, "8M"]);
        let server = place.serve(&[&["-t", "-f", format, &image], extra].concat());
        let url = place.url("");
        let client = |commands: &[&str]| {
            let mut args = vec!["-f", "raw", url.as_str()];
            for command in commands {
                args.extend(["-c", command]);
            }
            place.io(&args)
        };
        let Some(_) = client(&["write -P 5 0 1M", "write -P 6 1000 3000", "flush"]) else {
            return server.end();
        };
        client(&[
            "read -P 6 1000 3000",
            "read -P 5 4096 64k",
            "read -P 0 2M 1M",
            "write -f -P 7 3M 64k",
            "write -z -u 512k 128k",
            "write -z 640k 64k",
            "discard 3M 64k",
            "write -P 9 8388000 608",
            "read -P 9 8388000 608",
            "aio_write -P 1 4M 1M",
            "aio_write -P 2 5M 1M",
            "aio_read 0 4M",
            "aio_flush",
            "read -P 2 5M 1M",
        ]);
        let map = place.qemu("qemu-img", &["map", "--output=json", "-f", "raw", &url]).unwrap();
        let map = String::from_utf8(map.stdout).unwrap();
        assert!(map.contains("\"zero\": true") && map.contains("\"data\": true"), "{map}");
        let copy = place.qemu("qemu-img", &["convert", "-f", "raw", "-O", "raw", &url, "copy"]);
        assert!(copy.unwrap().status.success());
        server.end();
        let same = place.qemu("qemu-img", &["compare", "-f", format, "-F", "raw", &image, "copy"]);
        assert!(same.as_ref().unwrap().status.success(), "{same:?}");
        // qemu-img can be the writer, too.
        let server = place.serve(&["-t", "-e", "4", "-f", format, &image]);
        place.io(&["-f", "raw", "copy", "-c", "write -P 77 0 8M"]);
        let back =
            place.qemu("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", "copy", &url]);
        assert!(back.as_ref().unwrap().status.success(), "{back:?}");
        server.end();
        let same = place.qemu("qemu-img", &["compare", "-f", format, "-F", "raw", &image, "copy"]);
        assert!(same.as_ref().unwrap().status.success(), "{same:?}");
    }
}

#[test]
fn the_export_is_what_the_options_say() {
    let place = Place::new();
    fs::write(place.at("disk"), [[1_u8; 4096], [2; 4096], [3; 4096]].concat()).expect("a file");
    let args = ["-t", "-r", "-A", "-f", "raw", "-o", "4096", "-x", "part", "-D", "a part", "disk"];
    let server = place.serve(&args);
    let listed = place.spindle(&["nbd", "-L", "-k", server.socket.to_str().unwrap()]).output();
    let ours = String::from_utf8(listed.expect("spindle").stdout).unwrap();
    assert_eq!(
        ours,
        "exports available: 1\n export: 'part'\n  description: a part\n  size:  8192\n  flags: \
         0x148f ( readonly flush fua df cache block-status-payload )\n  min block: 1\n  opt block: \
         4096\n  max block: 33554432\n  transaction size: 64-bit\n  available meta contexts: 2\n   \
         base:allocation\n   qemu:allocation-depth\n"
    );
    if let Some(theirs) = place.qemu("qemu-nbd", &["-L", "-k", server.socket.to_str().unwrap()]) {
        let theirs = String::from_utf8(theirs.stdout).unwrap();
        if theirs.contains("transaction size: 64-bit") {
            assert_eq!(theirs, ours);
        } else {
            // One from before there were extended headers does not ask for them.
            let before = ours.replace("0x148f", "0x48f").replace(" block-status-payload", "");
            let size = "  transaction size: 64-bit\n";
            let narrow = before.replace(size, "  transaction size: 32-bit\n");
            assert!([before.replace(size, ""), narrow].contains(&theirs), "{theirs}");
        }
        let url = place.url("part");
        place.io(&["-r", "-f", "raw", &url, "-c", "read -P 2 0 4k", "-c", "read -P 3 4k 4k"]);
        let written = place.qemu("qemu-io", &["-f", "raw", &url, "-c", "write 0 1"]).unwrap();
        assert!(!written.status.success(), "{written:?}");
        let other = place.url("other");
        let refused = place.qemu("qemu-img", &["info", &other]).unwrap();
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(error.contains("export 'other' not present"), "{error}");
    }
    server.end();
    // A snapshot leaves the image as it is, and a server that is not persistent goes.
    let server = place.serve(&["-s", "-f", "raw", "disk"]);
    if place
        .io(&["-f", "raw", &place.url(""), "-c", "write -P 9 0 12k", "-c", "read -P 9 0 12k"])
        .is_none()
    {
        return server.end();
    }
    server.wait();
    assert_eq!(fs::read(place.at("disk")).expect("a file")[..4096], [1; 4096]);
}

/// A client that says what it likes.
struct Client(UnixStream);

impl Client {
    fn new(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).expect("a server");
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).expect("a greeting");
        assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3_u32.to_be_bytes()).expect("a socket");
        Self(stream)
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        let mut out = b"IHAVEOPT".to_vec();
        out.extend(option.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        self.0.write_all(&out).expect("a socket");
    }

    /// Asks for the export by its old option; returns its size.
    fn begin(socket: &Path) -> (Self, u64) {
        let mut client = Self::new(socket);
        client.option(1, b"");
        let mut export = [0; 10];
        client.0.read_exact(&mut export).expect("an export");
        (client, u64::from_be_bytes(*export.first_chunk().expect("eight bytes")))
    }

    fn request(&mut self, flags: u16, kind: u16, offset: u64, len: u32) {
        let mut out = 0x2560_9513_u32.to_be_bytes().to_vec();
        out.extend(flags.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(7_u64.to_be_bytes());
        out.extend(offset.to_be_bytes());
        out.extend(len.to_be_bytes());
        self.0.write_all(&out).expect("a socket");
    }

    /// The error of the next simple reply.
    fn reply(&mut self) -> u32 {
        let mut head = [0; 16];
        self.0.read_exact(&mut head).expect("a reply");
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes());
        assert_eq!(head[8..], 7_u64.to_be_bytes());
        u32::from_be_bytes(head[4..8].try_into().expect("four bytes"))
    }

    fn is_over(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0) | Err(_))
    }
}

#[test]
fn a_hostile_client_harms_nobody_but_itself() {
    const EPERM: u32 = 1;
    const EINVAL: u32 = 22;
    const ENOSPC: u32 = 28;
    let place = Place::new();
    place.img(&["create", "-q", "-f", "raw", "disk", "1M"]);
    let server = place.serve(&["-t", "-e", "0", "-f", "raw", "disk"]);
    let socket = server.socket.clone();
    let (mut good, size) = Client::begin(&socket);
    assert_eq!(size, 1 << 20);
    // Each of these ends its own connection.
    for bad in 0..4 {
        let (mut client, _) = Client::begin(&socket);
        match bad {
            0 => client.0.write_all(&[0xff; 64]).expect("a socket"),
            1 => client.request(0, 1, 0, u32::MAX),
            2 => drop(client.0.shutdown(std::net::Shutdown::Write)),
            _ => client.request(0, 2, 0, 0),
        }
        assert!(client.is_over(), "{bad}");
    }
    let mut client = Client::new(&socket);
    client.0.write_all(&[0x41; 100]).expect("a socket");
    assert!(client.is_over());
    // And one that takes no answers waits for itself.
    let (mut greedy, _) = Client::begin(&socket);
    greedy.0.set_write_timeout(Some(std::time::Duration::from_millis(200))).expect("a socket");
    let read = {
        let mut out = 0x2560_9513_u32.to_be_bytes().to_vec();
        out.extend([0; 20]);
        out.extend((1_u32 << 20).to_be_bytes());
        out
    };
    while greedy.0.write_all(&read.repeat(64)).is_ok() {}
    for (flags, kind, offset, len, error) in [
        (0, 0, 0, 0, 0),
        (0, 0, 1 << 20, 1, EINVAL),
        (0, 0, u64::MAX, u32::MAX, EINVAL),
        (0, 0, 0, 1 << 20 | 1, EINVAL),
        (0, 6, (1 << 20) - 1, 2, ENOSPC),
        (0, 4, u64::MAX - 1, 4, EINVAL),
        (0xfff0, 0, 0, 1, EINVAL),
        // Extents and the other flags of structured replies were not agreed on.
        (0, 7, 0, 512, EINVAL),
        (4, 0, 0, 512, EINVAL),
        (0, 99, 0, 0, EINVAL),
        (0, 3, 0, 0, 0),
        (0, 5, 0, 1 << 20, 0),
        (2, 6, 0, 4096, 0),
        (1, 4, 0, 4096, 0),
    ] {
        good.request(flags, kind, offset, len);
        assert_eq!(good.reply(), error, "flags {flags} kind {kind} {offset}+{len}");
    }
    // A write that is refused has its data taken all the same.
    good.request(0, 1, 1 << 20, 4);
    good.0.write_all(b"data").expect("a socket");
    assert_eq!(good.reply(), ENOSPC);
    good.request(0, 1, 0, 4);
    good.0.write_all(b"data").expect("a socket");
    assert_eq!(good.reply(), 0);
    good.request(0, 0, 0, 4);
    assert_eq!(good.reply(), 0);
    let mut data = [0; 4];
    good.0.read_exact(&mut data).expect("data");
    assert_eq!(&data, b"data");
    server.end();
    let server = place.serve(&["-r", "-f", "raw", "disk"]);
    let (mut client, _) = Client::begin(&socket);
    client.request(0, 1, 0, 4);
    client.0.write_all(b"data").expect("a socket");
    assert_eq!(client.reply(), EPERM);
    drop(client);
    server.wait();
}

#[test]
fn mistakes_are_named_in_the_words_of_qemu_nbd() {
    let place = Place::new();
    place.img(&["create", "-q", "-f", "raw", "disk", "1M"]);
    for args in [
        &[][..],
        &["disk", "b"],
        &["none"],
        &["-f", "zz", "disk"],
        &["-f", "qcow2", "disk"],
        &["-f", "raw", "-e", "x", "disk"],
        &["-f", "raw", "-e", "-1", "disk"],
        &["-f", "raw", "-k", "s", "disk"],
        &["-f", "raw", "--cache=foo", "disk"],
        &["-f", "raw", "--aio=foo", "disk"],
        &["-f", "raw", "--aio=native", "disk"],
        &["-f", "raw", "--discard=foo", "disk"],
        &["-f", "raw", "--detect-zeroes=foo", "disk"],
        &["-f", "raw", "--detect-zeroes=unmap", "disk"],
        &["-f", "raw", "-o", "2M", "disk"],
        &["-f", "raw", "-p", "x", "disk"],
        &["-f", "raw", "-n", "--cache=none", "disk"],
        &["-f", "raw", "--image-opts", "driver=raw,file.filename=disk"],
        &["-f", "raw", "-k", "/nonexistent/s", "disk"],
        &["-f", "raw", "--fork", "-k", "/nonexistent/s", "disk"],
        &["-f", "raw", "--tls-creds=x", "disk"],
        &["-L", "disk"],
        &["-L", "-x", "a"],
        &["-L", "-k", "/nonexistent/s"],
        &["-z"],
        &["--zz", "disk"],
        &["--port"],
    ] {
        let run = |program: &str| {
            let mut command = Command::new(program);
            command.arg0("qemu-nbd").args(args).current_dir(place.0.path()).stdin(Stdio::null());
            let done = command.output().ok()?;
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
            Some((text(done.stdout), text(done.stderr), done.status.code()))
        };
        let ours = run(env!("CARGO_BIN_EXE_spindle")).expect("spindle");
        assert_eq!(ours.2, Some(1), "{args:?}: {ours:?}");
        if let Some(theirs) = run("qemu-nbd") {
            assert_eq!(ours, theirs, "{args:?}");
        }
    }
}

/// A server of the program `tool`, which goes when its client does.
fn other_server(place: &Place, tool: &str, args: &[&str]) -> Option<std::process::Child> {
    let socket = place.at("other");
    let _ = fs::remove_file(&socket);
    let mut command = Command::new(tool);
    command.args(["-k", socket.to_str().expect("text"), "-t"]).args(args);
    let child = command.current_dir(place.0.path()).spawn();
    let Ok(mut child) = child else {
        eprintln!("{tool} is not installed: it is no server here");
        return None;
    };
    for _ in 0..500 {
        if UnixStream::connect(&socket).is_ok() {
            return Some(child);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let _ = child.kill();
    panic!("{tool} does not serve");
}

/// The image tool as a client of `url`: it reads, writes, maps, copies there and back.
fn use_as_client(place: &Place, url: &str) {
    let img = |args: &[&str]| {
        let done = place.spindle(&[&["img"], args].concat()).output().expect("spindle");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        (text + &String::from_utf8_lossy(&done.stderr), done.status.code())
    };
    let well = |args: &[&str]| {
        let (text, status) = img(args);
        assert_eq!(status, Some(0), "{args:?}: {text}");
        text
    };
    let _ = fs::remove_file(place.at("copy"));
    well(&["convert", "-f", "raw", "-O", "qcow2", url, "copy"]);
    assert_eq!(well(&["compare", "-f", "raw", url, "copy"]), "Images are identical.\n");
    let map = well(&["map", "-f", "raw", "--output=json", url]);
    assert!(map.contains("\"data\": true") && map.contains("\"zero\": true"), "{map}");
    let info = well(&["info", "-f", "raw", url]);
    assert!(info.contains("virtual size: 8 MiB"), "{info}");
    // There, over what is there already.
    let done = place.spindle(&["io", "-c", "write -P 0x5e 3M 300k", "copy"]).output();
    assert!(done.expect("spindle").status.success());
    well(&["convert", "-n", "-O", "raw", "copy", url]);
    assert_eq!(well(&["compare", "-f", "raw", url, "copy"]), "Images are identical.\n");
    let done = place
        .spindle(&["io", "-f", "raw", "-c", "read -P 0x5e 3M 300k", "-c", "write -z 4M 64k", url])
        .output();
    let done = done.expect("spindle");
    assert!(done.status.success(), "{done:?}");
    let (text, status) = img(&["info", &format!("{url}x")]);
    assert!(status == Some(1) && text.contains("No such file"), "{text}");
}

#[test]
fn images_are_read_and_written_over_nbd() {
    let place = Place::new();
    place.img(&["create", "-q", "-f", "qcow2", "disk", "8M"]);
    let done = place.spindle(&["io", "-c", "write -P 9 1M 1M", "disk"]).output().expect("spindle");
    assert!(done.status.success(), "{done:?}");
    let server = place.serve(&["-t", "-f", "qcow2", "disk"]);
    use_as_client(&place, &format!("nbd+unix:///?socket={}", place.at("socket").display()));
    server.end();
    // The same with QEMU's server, over a socket and by options.
    let qemu = other_server(&place, "qemu-nbd", &["-e", "4", "-f", "qcow2", "disk"]);
    if let Some(mut server) = qemu {
        let socket = place.at("other");
        use_as_client(&place, &format!("nbd+unix:///?socket={}", socket.display()));
        let options = format!(
            "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={}",
            socket.display()
        );
        let done = place.spindle(&["img", "map", "--image-opts", &options]).output();
        let done = done.expect("spindle");
        assert!(done.status.success(), "{done:?}");
        let _ = server.kill();
        let _ = server.wait();
    }
}

#[test]
fn bitmaps_and_snapshots_are_exported() {
    let place = Place::new();
    place.img(&["create", "-q", "-f", "qcow2", "disk", "4M"]);
    let io = |commands: &[&str]| {
        let mut args = vec!["io", "disk"];
        commands.iter().for_each(|command| args.extend(["-c", *command]));
        let done = place.spindle(&args).output().expect("spindle");
        assert!(done.status.success(), "{done:?}");
    };
    io(&["write -P 1 0 1M"]);
    place.img(&["snapshot", "-c", "before", "disk"]);
    place.img(&["bitmap", "--add", "disk", "since"]);
    io(&["write -P 2 512k 1M"]);
    {
        let server = place.serve(&["-t", "-r", "-f", "qcow2", "-B", "since", "disk"]);
        let url = place.url("");
        let socket = place.at("socket");
        let list = place.spindle(&["nbd", "-L", "-k", socket.to_str().expect("text")]).output();
        let list = list.expect("spindle");
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        assert!(list.contains("qemu:dirty-bitmap:since"), "{list}");
        // QEMU shows what is dirty as what has no data.
        let dirty = format!(
            "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:since",
            place.at("socket").display()
        );
        let map = place.qemu("qemu-img", &["map", "--output=json", "--image-opts", &dirty]);
        if let Some(map) = map {
            let text = String::from_utf8_lossy(&map.stdout).into_owned();
            let ranges: Vec<(u64, u64)> = serde_json::from_str::<Vec<serde_json::Value>>(&text)
                .expect("JSON")
                .iter()
                .filter(|one| one["data"] == false)
                .map(|one| {
                    (one["start"].as_u64().unwrap_or(0), one["length"].as_u64().unwrap_or(0))
                })
                .collect();
            assert_eq!(ranges, [(512 << 10, 1 << 20)], "{text} of {url}");
        }
        server.end();
    }
    let done = place.spindle(&["nbd", "-B", "none", "-f", "qcow2", "disk"]).output();
    let done = done.expect("spindle");
    assert!(String::from_utf8_lossy(&done.stderr).contains("Bitmap 'none' is not found"));
    let server = place.serve(&["-t", "-f", "qcow2", "-l", "before", "disk"]);
    let url = place.url("");
    let read = place.spindle(&["io", "-r", "-f", "raw", "-c", "read -P 1 0 1M", &url]).output();
    let read = read.expect("spindle");
    assert!(read.status.success(), "{read:?}");
    server.end();
}

#[test]
fn a_socket_may_be_handed_over() {
    let place = Place::new();
    place.img(&["create", "-q", "-f", "qcow2", "disk", "4M"]);
    let socket = place.at("handed");
    // A listener at descriptor 3, and the environment that systemd makes.
    let script = "import os, socket, sys\n\
                  s = socket.socket(socket.AF_UNIX)\n\
                  s.bind(sys.argv[1])\n\
                  s.listen(1)\n\
                  os.dup2(s.fileno(), 3)\n\
                  os.set_inheritable(3, True)\n\
                  os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n\
                  os.execv(sys.argv[2], sys.argv[2:])\n";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(&socket).arg(env!("CARGO_BIN_EXE_spindle"));
    let server = command.args(["nbd", "-f", "qcow2", "disk"]).current_dir(place.0.path()).spawn();
    let Ok(mut server) = server else {
        eprintln!("python3 is not installed: nobody hands a socket over");
        return;
    };
    for _ in 0..500 {
        if socket.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let url = format!("nbd+unix:///?socket={}", socket.display());
    let done = place.spindle(&["img", "info", "-f", "raw", &url]).output().expect("spindle");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(text.contains("virtual size: 4 MiB"), "{done:?}");
    // It goes with its last client.
    assert!(server.wait().expect("a server").success());
}
