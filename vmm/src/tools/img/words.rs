//! What qemu-img says of a new image that cannot be made.
use super::ImgError;
use super::image::file_detail;
use crate::spec::SpecError;
use spindle_block::error::with_causes;
use spindle_block::nodes::file::{FileError, Reason};
use std::path::Path;

/// A format that there is not.
pub(crate) fn of_format(error: &SpecError) -> ImgError {
    match error {
        SpecError::Unknown { what: "format", name, .. } => {
            ImgError::said(format!("Unknown file format '{name}'"))
        }
        other => ImgError::said(other.to_string()),
    }
}

/// Options that do not fit.
pub(crate) fn of_plan(path: &Path, error: SpecError) -> ImgError {
    let path = path.display();
    ImgError::said(match error {
        // What was said in its words already.
        SpecError::Conflict(sentence) => sentence,
        SpecError::Unknown { what: "format", name, .. } => {
            format!("{path}: Unknown file format '{name}'")
        }
        SpecError::Unknown { name, .. } | SpecError::NoValue { name, .. } => {
            format!("{path}: Invalid parameter '{name}'")
        }
        SpecError::BadValue { of, name, reason } => {
            format!("{path}: {}", of_value(&of, &name, &reason))
        }
        other => format!("{path}: {other}"),
    })
}

/// Options that do not fit, where the image is not what the sentence begins with.
pub(super) fn of_options(path: &Path, error: &SpecError) -> String {
    match error {
        SpecError::Unknown { name, .. } | SpecError::NoValue { name, .. } => {
            format!("Invalid parameter '{name}'")
        }
        SpecError::BadValue { name, reason, .. } if name == "backing_fmt" => {
            format!("Parameter 'backing-fmt' does not accept value '{}'", quoted(reason))
        }
        SpecError::BadValue { of, name, reason } => of_value(of, name, reason),
        other => {
            let text = other.to_string();
            let named = text.strip_prefix(&format!("{}: ", path.display())).map(str::to_owned);
            named.unwrap_or(text)
        }
    }
}

/// The value that a reason is about.
fn quoted(reason: &str) -> &str {
    reason.split('\'').nth(1).unwrap_or_default()
}

/// A value that does not fit, as QEMU says it of the options that both have.
fn of_value(of: &str, name: &str, reason: &str) -> String {
    let quoted = quoted(reason);
    match name {
        "backing_fmt" => format!("Unknown driver '{quoted}'\nCould not open backing image."),
        "cluster_size" if reason.contains("power of two") || reason.contains("not within") => {
            "Cluster size must be a power of two between 512 and 2048k".to_owned()
        }
        "cluster_size" if reason.contains("is not a size") => format!(
            "Parameter '{name}' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or \
             E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
        ),
        "compat" if reason.contains("(use version=") => reason.to_owned(),
        "compression_type" => {
            format!("Parameter 'compression-type' does not accept value '{quoted}'")
        }
        _ if reason.contains("neither 'on' nor 'off'") => {
            format!("Parameter '{name}' expects 'on' or 'off'")
        }
        "subformat" | "adapter_type" if of.contains("vmdk") => {
            format!("invalid parameter value: {quoted}")
        }
        "compat" => format!("Parameter 'version' does not accept value '{quoted}'"),
        "preallocation" if quoted == "metadata" => {
            "Unsupported preallocation mode: metadata".to_owned()
        }
        _ if reason.contains("is none of") => {
            format!("Parameter '{name}' does not accept value '{quoted}'")
        }
        _ => format!("{name}: {reason}"),
    }
}

/// A backing file that cannot be looked at.
pub(crate) fn of_backing(path: &Path, error: ImgError) -> ImgError {
    let text = match error {
        ImgError::Said(text) if text.ends_with("needs a size parameter") => {
            return ImgError::Said(text);
        }
        other => with_causes(&other),
    };
    // What is no file at all is not said to have been opened.
    if let Some((_, rest)) = text.split_once("': 'file' driver requires") {
        let path = path.display();
        return ImgError::said(format!(
            "{path}: 'file' driver requires{rest}\nCould not open backing image."
        ));
    }
    // The file is named once: of `Could not open 'a': Could not open 'a': why` the second part.
    let detail = text
        .split_once("': Could not open '")
        .map_or_else(|| text.clone(), |(_, rest)| format!("Could not open '{rest}"));
    ImgError::said(format!("{}: {detail}\nCould not open backing image.", path.display()))
}

/// Why a file cannot be made.
pub(super) fn of_making_file(error: &FileError) -> String {
    match &error.reason {
        Reason::NotAnImage("a directory") => {
            format!("Could not create '{}': Is a directory", error.path.display())
        }
        _ => file_detail(error).replacen("Could not open", "Could not create", 1),
    }
}

/// An image that cannot be made.
pub(crate) fn of_making(path: &Path, error: ImgError) -> ImgError {
    let path = path.display();
    match error {
        ImgError::File(error) => ImgError::said(format!("{path}: {}", of_making_file(&error))),
        ImgError::Create { source, .. } => {
            ImgError::said(format!("{path}: {}", with_causes(&source)))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_refused_in_qemu_imgs_words() {
        assert_eq!(
            of_value("", "lazy_refcounts", "'x' is neither 'on' nor 'off'"),
            "Parameter 'lazy_refcounts' expects 'on' or 'off'"
        );
        assert_eq!(
            of_value("", "preallocation", "'foo' is none of off, full"),
            "Parameter 'preallocation' does not accept value 'foo'"
        );
        let error = ImgError::said("Could not open 'b': Could not open 'b': No such file");
        assert_eq!(
            of_backing(Path::new("x"), error).to_string(),
            "x: Could not open 'b': No such file\nCould not open backing image."
        );
    }
}
