//! qemu-img's line about an image that it is about to make. It comes before most values are looked at, so also
//! before many failures.
use super::create::{Outline, Request, outline_size, rows};
use super::{ImgError, formats};
use crate::spec::SpecError;
use crate::spec::format::Format;
use crate::spec::props::{Kind, Prop};
use serde_json::Value;
use std::fmt::Write;

/// Where qemu-img has the options of qcow2 in the line; those of the encryption come before.
const QCOW2_ORDER: &[&str] = &[
    "cluster_size",
    "extended_l2",
    "preallocation",
    "compression_type",
    "size",
    "compat",
    "backing_file",
    "backing_fmt",
    "data_file",
    "data_file_raw",
    "lazy_refcounts",
    "refcount_bits",
];

impl Request {
    /// The line about an image with a disk of `size` bytes.
    ///
    /// # Errors
    ///
    /// What qemu-img refuses before it prints the line: unknown options, and values that are no numbers or
    /// switches where such are expected.
    pub fn announce(&self, size: u64) -> Result<String, SpecError> {
        let format = self.format()?;
        if let Format::Image(other) = format
            && !formats::is_made(other)
        {
            return Err(SpecError::Conflict(format!(
                "{}: Format driver '{}' does not support image creation",
                self.path.display(),
                format.name()
            )));
        }
        let Outline { mut options, .. } = self.outline(&loose(format))?;
        options.insert("size".to_owned(), size.into());
        let mut out = format!("Formatting '{}', fmt={}", self.path.display(), format.name());
        for name in order(format) {
            if let Some(value) = options.get(name) {
                let _ = write!(out, " {name}={}", shown(value));
            }
        }
        out.push('\n');
        Ok(out)
    }

    /// The line about an image that is not going to be made, because of a value that is looked at late; with
    /// `blind`, the backing file is not looked at.
    ///
    /// # Errors
    ///
    /// As [`Request::announce`]; no size, or a backing file that cannot be opened.
    pub fn announce_in_vain(&self, blind: bool) -> Result<String, ImgError> {
        let said = |error: SpecError| ImgError::said(error.to_string());
        let format = self.format().map_err(said)?;
        let outline = self.outline(&loose(format)).map_err(said)?;
        let size = outline_size(&self.path, &outline, blind)?;
        self.announce(size).map_err(said)
    }
}

/// The options of a format, with words and powers of two not looked at; but a backing file's format is.
fn loose(format: Format) -> Vec<Prop> {
    let loose = |row: &Prop| match row.kind {
        Kind::Enum(_) if row.name != "backing_fmt" => {
            Prop { kind: Kind::Str { len_max: 1023 }, ..*row }
        }
        Kind::BlockSize { .. } => Prop { kind: Kind::Size { min: 0, max: u64::MAX }, ..*row },
        _ => *row,
    };
    rows(format).iter().map(loose).collect()
}

fn order(format: Format) -> Vec<&'static str> {
    let names = rows(format).iter().map(|row| row.name);
    match format {
        Format::Raw => names.collect(),
        Format::Qcow2 => {
            let encryption = names.filter(|name| !QCOW2_ORDER.contains(name));
            encryption.chain(QCOW2_ORDER.iter().copied()).collect()
        }
        // SIZE is the first of their rows, and the format's own options follow.
        Format::Image(_) => names.collect(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, size: Option<&str>, options: &[&str]) -> Request {
        Request {
            path: path.into(),
            size: size.map(str::to_owned),
            options: options.iter().map(|&o| o.to_owned()).collect(),
            ..Request::default()
        }
    }

    #[test]
    fn a_request_is_announced_as_qemu_img_does() {
        assert_eq!(
            request("a.qcow2", Some("1G"), &[]).announce(1 << 30).unwrap(),
            "Formatting 'a.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off \
             compression_type=zlib size=1073741824 lazy_refcounts=off refcount_bits=16\n"
        );
        let mut with_backing =
            request("b.qcow2", None, &["cluster_size=4k,lazy_refcounts=on,compat=v3"]);
        with_backing.backing = Some("a.qcow2".to_owned());
        with_backing.backing_format = Some("qcow2".to_owned());
        assert_eq!(with_backing.plan().unwrap().size, None);
        assert_eq!(
            with_backing.announce(512).unwrap(),
            "Formatting 'b.qcow2', fmt=qcow2 cluster_size=4096 extended_l2=off \
             compression_type=zlib size=512 compat=v3 backing_file=a.qcow2 backing_fmt=qcow2 \
             lazy_refcounts=on refcount_bits=16\n"
        );
        let raw = request("c.raw", Some("1"), &["preallocation=full"]);
        assert_eq!(raw.plan().unwrap().size, Some(512));
        let line = raw.announce(512).unwrap();
        assert_eq!(line, "Formatting 'c.raw', fmt=raw size=512 preallocation=full\n");
    }

    #[test]
    fn values_that_are_looked_at_late_are_announced_and_others_are_not() {
        let announced = |options: &str| {
            let request = request("a.qcow2", Some("1M"), &[options]);
            assert!(request.plan().is_err(), "{options}");
            request.announce_in_vain(false).map(|line| line.contains(options))
        };
        for late in ["compat=9", "cluster_size=3000", "compression_type=lz4", "preallocation=x"] {
            assert!(announced(late).unwrap(), "{late}");
        }
        for early in ["nosuch=1", "cluster_size=abc", "lazy_refcounts=maybe", "refcount_bits=x"] {
            assert!(announced(early).is_err(), "{early}");
        }
        assert!(request("a.qcow2", None, &["compat=9"]).announce_in_vain(false).is_err());
    }
}
