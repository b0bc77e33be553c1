//! The options of `spindle run`: `key=value` text, JSON, and description files.

use std::{io, path::Path};

use spindle::spec::{
    Draft, MachineSpec, QmpSpec, SerialSpec,
    format::{Look, Sight},
    keyval, size,
};

/// What options are made of.
pub(super) const WORDS: &[&str] = &[
    "driver=",
    "file=",
    "node-name=",
    "filename=",
    "file.driver=",
    "qcow2",
    "raw",
    "null-co",
    "fault",
    "virtio-blk-pci",
    "virtio-rng-pci",
    "drive=",
    "id=",
    "iothread",
    "iothread-vq-mapping.0.iothread=",
    "num-queues=",
    "cache=",
    "none",
    "directsync",
    "size=",
    "rules.0.op=",
    "addr=",
    "on",
    "off",
    ",,",
    "serial=",
    "werror=",
    "{\"driver\":\"",
    "\":",
    "18446744073709551615",
    "-1",
    "1T",
    "0x",
    "\n",
];

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        "dfile=a.qcow2,queues=4,iothread=io0,cache=none,serial=X1\ndfile=b.raw,readonly=on",
        "oiothread,id=a,poll-max-ns=1000\nbdriver=qcow2,node-name=d0,file.driver=file,\
         file.filename=r,,oot.qcow2\nvvirtio-blk-pci,drive=d0,num-queues=4,\
         iothread-vq-mapping.0.iothread=a",
        "b{\"driver\":\"fault\",\"node-name\":\"f0\",\"file\":{\"driver\":\"null-co\",\"size\":\"1G\"},\
         \"rules\":[{\"op\":\"read\",\"action\":\"delay\",\"delay-ns\":5}]}\nvvirtio-blk-pci,drive=f0",
        "v{\"driver\":\"virtio-rng-pci\",\"max-bytes\":1024,\"period\":1000}\nareboot=shutdown",
        "t[[disks]]\nfile = 'a.raw'\nqueues = 2\n",
        "tmemory = '2G'\ncpus = 4\nserial = 'unix:/x,server=on'\nqmp = ['unix:/y']\n",
        "j{\"memory\":\"64M\",\"disks\":[\"a.raw\"],\"objects\":[{\"qom-type\":\"iothread\",\"id\":\"x\"}]}",
        "qunix:/tmp/x,server=on\nsfile:/tmp/log\nz12G\nmappend=console=ttyS0",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Files that are all there, and are nothing in particular.
struct Anything;

impl Look for Anything {
    fn look(&self, path: &Path) -> io::Result<Sight> {
        let qcow2 = path.extension().is_some_and(|e| e == "qcow2");
        let head = if qcow2 { b"QFI\xfb\0\0\0\x03".to_vec() } else { vec![0; 512] };
        Ok(Sight { block_device: path.starts_with("/dev"), head })
    }
}

/// The first letter of a line says what option the rest of it is; what describes a machine describes
/// the same one when it is printed and read again.
pub(super) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Some(draft) = draft(&text) else { return };
    let Ok(spec) = draft.lower(&Anything) else { return };
    let printed = spec.to_json().expect("a description prints");
    let value = serde_json::from_str(&printed).expect("JSON was printed");
    let again = Draft::from_config("again", value)
        .and_then(|draft| draft.lower(&Anything))
        .unwrap_or_else(|e| panic!("what was printed is refused: {e}\n{printed}"));
    same(&spec, &again);
}

fn same(one: &MachineSpec, two: &MachineSpec) {
    assert_eq!(one, two, "what was printed is read as something else");
}

fn draft(text: &str) -> Option<Draft> {
    // A description file is the whole text.
    if let Some(rest) = text.strip_prefix('t') {
        return Draft::from_config("t", toml::from_str(rest).ok()?).ok();
    }
    if let Some(rest) = text.strip_prefix('j') {
        return Draft::from_config("j", serde_json::from_str(rest).ok()?).ok();
    }
    let mut draft = Draft::default();
    for line in text.lines().take(64) {
        let mut rest = line.chars();
        let (letter, rest) = (rest.next(), rest.as_str());
        let parse = |implied| keyval::parse("--fuzz", rest, Some(implied), &["readonly"]);
        match letter {
            Some('d') => draft.disks.push(parse("file").ok()?),
            Some('b') => draft.blockdevs.push(parse("driver").ok()?),
            Some('o') => draft.objects.push(parse("qom-type").ok()?),
            Some('v') => draft.devices.push(parse("driver").ok()?),
            Some('a') => draft.set_actions(keyval::parse("-a", rest, None, &[]).ok()?).ok()?,
            Some('m') => draft.set("-m", keyval::parse("-m", rest, None, &[]).ok()?).ok()?,
            Some('q') => draft.settings.qmp.push(QmpSpec::parse(rest).ok()?),
            Some('s') => draft.settings.serial = SerialSpec::parse(rest).ok()?,
            Some('z') => drop(size::parse(rest, 1).map(size::format)),
            _ => {
                let parts = keyval::split(line);
                let joined: Vec<String> = parts.iter().map(|part| keyval::escape(part)).collect();
                // A trailing comma says nothing, but keeps an empty last part.
                let joined = joined.join(",") + ",";
                assert!(parts.is_empty() || keyval::split(&joined) == parts, "{joined:?}");
            }
        }
    }
    Some(draft)
}
