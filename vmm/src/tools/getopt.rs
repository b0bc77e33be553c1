//! getopt_long(3), with the words of the GNU C library about mistakes: the commands of `spindle io`
//! and `spindle nbd` are parsed as those that they stand in for.

/// Whether an option has an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// None.
    Nothing,
    /// One, always.
    Argument,
    /// One, only as `--name=argument`.
    Maybe,
}

/// A long option, and the letter or name that it is reported as.
#[derive(Clone, Copy, Debug)]
pub struct Long {
    /// Its name, without dashes.
    pub name: &'static str,
    /// Whether it has an argument.
    pub takes: Takes,
    /// The short option that it is another name of; its own name where there is none.
    pub key: &'static str,
}

/// A long option that is also `key`, or stands for itself where that is empty.
#[must_use]
pub const fn long(name: &'static str, takes: Takes, key: &'static str) -> Long {
    Long { name, takes, key: if key.is_empty() { name } else { key } }
}

/// What was found on a command line, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An option (by its letter, or its long name where it has none) and its argument.
    Option(String, Option<String>),
    /// A mistake, in the C library's words.
    Mistake(String),
}

/// A parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The options.
    pub found: Vec<Found>,
    /// What is no option.
    pub rest: Vec<String>,
}

/// Parses `args` (without the program's name, which is `name`). `short` has the letters, one with
/// an argument followed by a colon.
#[must_use]
pub fn parse(name: &str, args: &[String], short: &str, long: &[Long]) -> Parsed {
    let mut parsed = Parsed::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            parsed.rest.extend(args.cloned());
            break;
        }
        if let Some(text) = arg.strip_prefix("--") {
            let found = long_option(name, text, long, || args.next().cloned());
            parsed.found.push(found);
        } else if arg.len() > 1 && arg.starts_with('-') {
            short_options(name, &arg[1..], short, &mut parsed.found, || args.next().cloned());
        } else {
            parsed.rest.push(arg.clone());
        }
    }
    parsed
}

fn long_option(
    name: &str,
    text: &str,
    long: &[Long],
    next: impl FnOnce() -> Option<String>,
) -> Found {
    let (typed, value) = match text.split_once('=') {
        Some((typed, value)) => (typed, Some(value.to_owned())),
        None => (text, None),
    };
    let near: Vec<&Long> = long.iter().filter(|option| option.name.starts_with(typed)).collect();
    let exact = near.iter().find(|option| option.name == typed).copied();
    let option = match (exact, near.as_slice()) {
        (Some(option), _) => option,
        (None, [only]) => only,
        (None, []) => return Found::Mistake(format!("{name}: unrecognized option '--{typed}'")),
        (None, [first, rest @ ..]) => {
            if rest.iter().any(|other| other.key != first.key || other.takes != first.takes) {
                let names: Vec<String> = near.iter().map(|o| format!("'--{}'", o.name)).collect();
                return Found::Mistake(format!(
                    "{name}: option '--{typed}' is ambiguous; possibilities: {}",
                    names.join(" ")
                ));
            }
            first
        }
    };
    match (option.takes, value) {
        (Takes::Nothing, Some(_)) => {
            Found::Mistake(format!("{name}: option '--{}' doesn't allow an argument", option.name))
        }
        (Takes::Argument, None) => match next() {
            Some(value) => Found::Option(option.key.to_owned(), Some(value)),
            None => {
                Found::Mistake(format!("{name}: option '--{}' requires an argument", option.name))
            }
        },
        (_, value) => Found::Option(option.key.to_owned(), value),
    }
}

fn short_options(
    name: &str,
    text: &str,
    short: &str,
    found: &mut Vec<Found>,
    next: impl FnOnce() -> Option<String>,
) {
    for (at, letter) in text.char_indices() {
        let known = short.find(letter).filter(|_| letter != ':');
        let Some(place) = known else {
            found.push(Found::Mistake(format!("{name}: invalid option -- '{letter}'")));
            continue;
        };
        if !short[place + letter.len_utf8()..].starts_with(':') {
            found.push(Found::Option(letter.to_string(), None));
            continue;
        }
        let rest = &text[at + letter.len_utf8()..];
        let value = if rest.is_empty() { next() } else { Some(rest.to_owned()) };
        found.push(match value {
            Some(value) => Found::Option(letter.to_string(), Some(value)),
            None => Found::Mistake(format!("{name}: option requires an argument -- '{letter}'")),
        });
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &[Long] = &[
        long("format", Takes::Argument, "f"),
        long("force-share", Takes::Nothing, "U"),
        long("image-opts", Takes::Nothing, ""),
        long("fork", Takes::Nothing, ""),
    ];

    fn of(args: &[&str]) -> Parsed {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        parse("tool", &args, "f:rU", LONG)
    }

    fn option(key: &str, value: Option<&str>) -> Found {
        Found::Option(key.to_owned(), value.map(str::to_owned))
    }

    #[test]
    fn options_may_stand_anywhere_and_be_shortened() {
        let parsed = of(&["a", "-rf", "raw", "--form=qcow2", "b", "-fx", "--image", "--", "-r"]);
        assert_eq!(
            parsed.found,
            [
                option("r", None),
                option("f", Some("raw")),
                option("f", Some("qcow2")),
                option("f", Some("x")),
                option("image-opts", None)
            ]
        );
        assert_eq!(parsed.rest, ["a", "b", "-r"]);
    }

    #[test]
    fn mistakes_are_in_the_words_of_the_library() {
        let mistake = |args: &[&str]| match of(args).found.first() {
            Some(Found::Mistake(text)) => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(mistake(&["-z"]), "tool: invalid option -- 'z'");
        assert_eq!(mistake(&["-f"]), "tool: option requires an argument -- 'f'");
        assert_eq!(mistake(&["--zz=3"]), "tool: unrecognized option '--zz'");
        assert_eq!(mistake(&["--format"]), "tool: option '--format' requires an argument");
        assert_eq!(mistake(&["--fork=1"]), "tool: option '--fork' doesn't allow an argument");
        assert_eq!(
            mistake(&["--for"]),
            "tool: option '--for' is ambiguous; possibilities: '--format' '--force-share' '--fork'"
        );
    }
}
