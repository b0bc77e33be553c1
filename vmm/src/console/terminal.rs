//! Raw mode, taken back on every way out.
//!
//! UNSAFETY: termios and signal calls of libc. What a signal handler touches is reached through
//! atomics only, and it calls only functions that signal-safety(7) lists.
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The terminal that is in raw mode. Never freed: a signal handler may look at it at any time.
static CURRENT: AtomicPtr<Modes> = AtomicPtr::new(ptr::null_mut());

struct Modes {
    fd: RawFd,
    cooked: libc::termios,
    raw: libc::termios,
}

/// Signals that end the process unless somebody handles them.
const FATAL: [libc::c_int; 10] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGILL,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
];

/// What [`FATAL`] signals did before, in the same order.
static EARLIER: [AtomicPtr<libc::sigaction>; FATAL.len()] =
    [const { AtomicPtr::new(ptr::null_mut()) }; FATAL.len()];

/// A terminal in raw mode. It gets its modes back when this is dropped, when the process exits,
/// panics or dies of a signal (SIGKILL alone cannot be helped); after a stop and SIGCONT it is raw
/// again.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Puts the terminal at `fd` into raw mode: keys come one by one and unseen, Ctrl-C is a byte;
    /// only output is still processed. `None` if `fd` is no terminal, or one that another job has
    /// in the foreground.
    ///
    /// # Errors
    ///
    /// Whatever termios(3) returns, or EBUSY while another terminal is in raw mode.
    pub fn new(fd: &impl AsRawFd) -> io::Result<Option<Self>> {
        let fd = fd.as_raw_fd();
        let mut modes = MaybeUninit::uninit();
        // SAFETY: no memory is passed but `modes`, for tcgetattr to fill in.
        let cooked = unsafe {
            if libc::isatty(fd) != 1 || in_background(fd) {
                return Ok(None);
            }
            check(libc::tcgetattr(fd, modes.as_mut_ptr()))?;
            modes.assume_init()
        };
        let mut raw = cooked;
        // SAFETY: `raw` is a valid termios.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        raw.c_oflag |= libc::OPOST;
        let modes = Box::into_raw(Box::new(Modes { fd, cooked, raw }));
        let free = ptr::null_mut();
        if CURRENT.compare_exchange(free, modes, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: the box was made above and nobody else has seen it.
            drop(unsafe { Box::from_raw(modes) });
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let guard = Self(());
        install();
        // SAFETY: `raw` is a valid termios.
        check(unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const raw) })?;
        Ok(Some(guard))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
        CURRENT.store(ptr::null_mut(), Ordering::Release);
    }
}

/// Gives the terminal its modes back now, for those who end the process without unwinding. May be
/// called from a signal handler, and more than once.
pub fn restore() {
    if let Some(modes) = current() {
        // TCSADRAIN would wait for a terminal that was stopped with Ctrl-S.
        // SAFETY: `cooked` is a valid termios; tcsetattr is async-signal-safe.
        unsafe { libc::tcsetattr(modes.fd, libc::TCSANOW, &raw const modes.cooked) };
    }
}

fn current() -> Option<&'static Modes> {
    // SAFETY: the pointer is null or to a `Modes` that was leaked.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// Whether another job has the terminal: setting its modes would stop us (SIGTTOU).
fn in_background(fd: RawFd) -> bool {
    // SAFETY: no memory is passed.
    let (foreground, ours) = unsafe { (libc::tcgetpgrp(fd), libc::getpgrp()) };
    foreground != -1 && foreground != ours
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sees to it, once, that [`restore`] is called on all ways out that run no destructors.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            next(panic);
        }));
        extern "C" fn at_exit() {
            restore();
        }
        // SAFETY: `at_exit` may run at any time.
        unsafe { libc::atexit(at_exit) };
        for (signal, earlier) in FATAL.iter().zip(&EARLIER) {
            handle(*signal, fatal, Some(earlier));
        }
        handle(libc::SIGCONT, continued, None);
    });
}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Handles `signal`, unless it is ignored; what it did before is kept in `earlier`.
fn handle(signal: libc::c_int, handler: Handler, earlier: Option<&AtomicPtr<libc::sigaction>>) {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `old` is for sigaction to fill in, and all zeros is a valid one; `new` is complete.
    unsafe {
        if libc::sigaction(signal, ptr::null(), old.as_mut_ptr()) != 0 {
            return;
        }
        let old = old.assume_init();
        if old.sa_sigaction == libc::SIG_IGN {
            return;
        }
        if let Some(earlier) = earlier {
            earlier.store(Box::into_raw(Box::new(old)), Ordering::Release);
        }
        let mut new: libc::sigaction = MaybeUninit::zeroed().assume_init();
        new.sa_sigaction = handler as *const () as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigaction(signal, &raw const new, ptr::null_mut());
    }
}

/// Restores the terminal, then lets the signal do what it did before.
extern "C" fn fatal(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    restore();
    let Some(index) = FATAL.iter().position(|known| *known == signal) else { return };
    let earlier = EARLIER[index].load(Ordering::Acquire);
    let by_cpu = matches!(signal, libc::SIGILL | libc::SIGBUS | libc::SIGFPE | libc::SIGSEGV);
    // SAFETY: `earlier` was leaked by `handle`, `info` is the kernel's; all calls are
    // async-signal-safe, and a zeroed sigaction is SIG_DFL.
    unsafe {
        let happens_again = by_cpu && (*info).si_code > 0;
        if by_cpu && !happens_again {
            // Rust's own handler takes a signal that was sent for a fault and waits for the next.
            let default: libc::sigaction = MaybeUninit::zeroed().assume_init();
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        } else if !earlier.is_null() {
            libc::sigaction(signal, earlier, ptr::null_mut());
        }
        if !happens_again {
            libc::raise(signal);
        }
    }
}

extern "C" fn continued(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if let Some(modes) = current().filter(|modes| !in_background(modes.fd)) {
        // SAFETY: `raw` is a valid termios; tcsetattr is async-signal-safe.
        unsafe { libc::tcsetattr(modes.fd, libc::TCSANOW, &raw const modes.raw) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::process::{Child, Command, Stdio};

    /// A pseudo-terminal: the end that types, and the end that is a terminal.
    fn pty() -> (File, OwnedFd) {
        let (mut master, mut slave) = (-1, -1);
        let null = ptr::null_mut;
        // SAFETY: both descriptors are for openpty to fill in.
        let result = unsafe {
            libc::openpty(&raw mut master, &raw mut slave, null(), ptr::null(), ptr::null())
        };
        assert_eq!(result, 0);
        // SAFETY: both are new and nobody else's.
        unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) }
    }

    fn is_raw(terminal: &impl AsRawFd) -> bool {
        let mut modes = MaybeUninit::uninit();
        // SAFETY: `modes` is for tcgetattr to fill in.
        let modes = unsafe {
            assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), modes.as_mut_ptr()), 0);
            modes.assume_init()
        };
        modes.c_lflag & (libc::ICANON | libc::ECHO | libc::ISIG) == 0
    }

    /// The test that is a child when the environment says so.
    const CHILD: &str = "console::terminal::tests::the_terminal_is_restored_on_every_way_out";

    /// This test program again, as a process that makes its terminal raw and then ends as `how`
    /// says (see [`be_the_child`]).
    fn spawn(how: &str, terminal: &OwnedFd) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD, "--nocapture"])
            .env("SPINDLE_TEST_END", how)
            .stdin(Stdio::from(terminal.try_clone().unwrap()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn be_the_child(how: &str) {
        let terminal = RawTerminal::new(&io::stdin()).unwrap();
        assert!(terminal.is_some());
        println!("raw {}", is_raw(&io::stdin()));
        io::stdout().flush().unwrap();
        let mut byte = [0];
        io::stdin().read_exact(&mut byte).unwrap();
        match how {
            "drop" => drop(terminal),
            "exit" => std::process::exit(3),
            "panic" => {
                let _ = std::thread::spawn(|| panic!("on purpose")).join();
                // SAFETY: _exit runs no handlers: only the panic hook can have restored it.
                unsafe { libc::_exit(4) };
            }
            "abort" => std::process::abort(),
            // SAFETY: a null pointer is read on purpose; the process dies of it.
            "fault" => unsafe {
                std::hint::black_box(ptr::read_volatile(std::hint::black_box(8 as *const u8)));
            },
            // Wait for a signal from outside.
            _ => loop {
                std::thread::park();
            },
        }
    }

    fn wait_until_raw(child: &mut Child) {
        let mut text = String::new();
        let mut byte = [0];
        let mut out = child.stdout.take().unwrap();
        while !text.contains("raw true") && out.read(&mut byte).unwrap() == 1 {
            text.push(char::from(byte[0]));
        }
        assert!(text.contains("raw true"), "{text}");
        child.stdout = Some(out);
    }

    #[test]
    fn the_terminal_is_restored_on_every_way_out() {
        if let Ok(how) = std::env::var("SPINDLE_TEST_END") {
            return be_the_child(&how);
        }
        for how in ["drop", "exit", "panic", "abort", "fault"] {
            let (mut keys, terminal) = pty();
            let mut child = spawn(how, &terminal);
            wait_until_raw(&mut child);
            assert!(is_raw(&terminal));
            keys.write_all(b"x").unwrap();
            let status = child.wait().unwrap();
            assert!(!is_raw(&terminal), "{how}: {status}");
            assert_eq!(status.success(), how == "drop", "{how}: {status}");
        }
    }

    #[test]
    fn the_terminal_is_restored_when_a_signal_ends_the_process() {
        use std::os::unix::process::ExitStatusExt;
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGSEGV, libc::SIGQUIT] {
            let (mut keys, terminal) = pty();
            let mut child = spawn("wait", &terminal);
            wait_until_raw(&mut child);
            keys.write_all(b"x").unwrap();
            let pid = libc::pid_t::try_from(child.id()).unwrap();
            // SAFETY: no memory is passed; the process is our child and not yet waited for.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
            let status = child.wait().unwrap();
            assert!(!is_raw(&terminal), "{signal}");
            assert_eq!(status.signal(), Some(signal));
        }
    }

    #[test]
    fn what_is_no_terminal_is_left_alone() {
        let null = File::open("/dev/null").unwrap();
        assert!(RawTerminal::new(&null).unwrap().is_none());
    }

    #[test]
    fn one_terminal_at_a_time_and_again_after_it() {
        let (_keys, terminal) = pty();
        let first = RawTerminal::new(&terminal).unwrap().unwrap();
        assert!(is_raw(&terminal));
        assert!(RawTerminal::new(&terminal).is_err());
        drop(first);
        assert!(!is_raw(&terminal));
        let again = RawTerminal::new(&terminal).unwrap();
        restore();
        assert!(!is_raw(&terminal));
        drop(again);
    }
}
