//! One client: a thread reads its requests, an iothread does them, another thread writes the
//! replies. A client that sends too much or takes nothing holds up itself alone.
use super::credit::{Credit, Ticket};
use super::execute::{Part, Replies, execute, refusal};
use super::export::Export;
use super::negotiate::{Agreed, Offer, Outcome, Tls, greet, negotiate};
use super::spec::{
    CMD_FLAG_PAYLOAD_LEN, Command, DATA_MAX, EINVAL, EXTENDED_REQUEST_LEN, REQUEST_LEN, Request,
};
use spindle_block::IoBuf;
use spindle_block::iothread::Handle;
use spindle_block::nodes::nbd::{Credentials, Stream, Until};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Data is moved between sockets and memory in pieces of so many bytes.
const PIECE: usize = 128 << 10;

/// A reply, and what its request holds until it is written.
struct Reply {
    parts: Vec<Part>,
    _ticket: Ticket,
}

/// How clients come in.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// How long a handshake may take.
    pub limit: Option<Duration>,
    /// What connections are encrypted with; `None`: they are not.
    pub credentials: Option<Credentials>,
}

/// The whole handshake. `None`: the client wants nothing more.
fn shake_hands(
    stream: &Stream,
    offer: &Offer,
    terms: &Terms,
) -> io::Result<Option<(Stream, Agreed)>> {
    let mut until = Until::new(stream, terms.limit);
    let client = greet(&mut until)?;
    let tls = if terms.credentials.is_some() { Tls::Needed } else { Tls::No };
    match (negotiate(&mut until, offer, client, tls)?, &terms.credentials) {
        (Outcome::Agreed(agreed), _) => Ok(Some((stream.try_clone()?, agreed))),
        (Outcome::StartTls, Some(credentials)) => {
            let secured = stream.secure(credentials, None, until.left())?;
            match negotiate(Until::new(&secured, until.left()), offer, client, Tls::On)? {
                Outcome::Agreed(agreed) => Ok(Some((secured, agreed))),
                _ => {
                    secured.finish();
                    Ok(None)
                }
            }
        }
        _ => Ok(None),
    }
}

/// Serves a client until it goes. `agreed_on` is set once its handshake has led to something.
///
/// # Errors
///
/// The connection broke, or the client does not speak the protocol.
pub(super) fn serve(
    stream: &Stream,
    offer: &Offer,
    export: &Arc<Export>,
    iothread: &Handle,
    terms: &Terms,
    agreed_on: &AtomicBool,
) -> io::Result<()> {
    let Some((stream, agreed)) = shake_hands(stream, offer, terms)? else { return Ok(()) };
    let stream = &stream;
    agreed_on.store(true, SeqCst);
    stream.set_timeout(None)?;
    let credit = Arc::new(Credit::default());
    let (replies, written) = channel();
    let out = stream.try_clone()?;
    let writer = std::thread::Builder::new()
        .name("nbd-reply".to_owned())
        .spawn(move || write_replies(&out, &written))?;
    let result = read_requests(stream, export, &Arc::new(agreed), iothread, &credit, &replies);
    // What is under way ends; the client that said goodbye may still want the answers.
    credit.wait_for_all();
    drop(replies);
    // One that panicked has said so.
    let _ = writer.join();
    stream.finish();
    result
}

fn read_requests(
    stream: &Stream,
    export: &Arc<Export>,
    agreed: &Arc<Agreed>,
    iothread: &Handle,
    credit: &Arc<Credit>,
    replies: &Sender<Reply>,
) -> io::Result<()> {
    loop {
        let Some(mut request) = read_request(stream, agreed.extended)? else { return Ok(()) };
        if request.command == Some(Command::Disconnect) {
            return Ok(());
        }
        let payload = request.payload(agreed.extended);
        if payload > u64::from(DATA_MAX) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too much data in a request"));
        }
        let mut refused = refusal(export, agreed, &request);
        let reads = request.command == Some(Command::Read) && refused.is_none();
        let ticket = credit.take(if reads { request.len } else { payload });
        let data = read_data(stream, payload)?;
        let mut agreed = Arc::clone(agreed);
        if request.command == Some(Command::BlockStatus)
            && agreed.extended
            && request.flags & CMD_FLAG_PAYLOAD_LEN != 0
        {
            refused = match selected(&agreed, &data) {
                None => Some(EINVAL),
                Some((len, selection)) => {
                    (request.len, agreed) = (len, Arc::new(selection));
                    refusal(export, &agreed, &request)
                }
            };
        }
        if let Some(error) = refused {
            let parts = Replies::new(&agreed, &request).error(error);
            // A writer that has gone has ended the connection.
            let _ = replies.send(Reply { parts, _ticket: ticket });
            continue;
        }
        let (export, replies) = (Arc::clone(export), replies.clone());
        iothread.post(move |cx| {
            let task = cx.clone();
            cx.spawn(async move {
                let parts = execute(&task, &export, &agreed, request, data).await;
                // The ticket goes last: after it, nobody may hold the export.
                drop(export);
                let _ = replies.send(Reply { parts, _ticket: ticket });
            });
        });
    }
}

/// `None`: the client has gone.
fn read_request(mut stream: &Stream, extended: bool) -> io::Result<Option<Request>> {
    let mut head = [0; EXTENDED_REQUEST_LEN];
    let len = if extended { EXTENDED_REQUEST_LEN } else { REQUEST_LEN };
    match stream.read_exact(&mut head[..len]) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let request = match head.first_chunk() {
        Some(head) if !extended => Request::parse(head),
        _ => Request::parse_extended(&head),
    };
    request.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no request"))
}

/// What block status with a payload asks for: how many bytes it is about, and the numbers of contexts.
fn selected(agreed: &Agreed, data: &IoBuf) -> Option<(u64, Agreed)> {
    let bytes = data.to_vec();
    let (len, numbers) = bytes.split_first_chunk()?;
    let (numbers, rest) = numbers.as_chunks();
    let mut contexts = Vec::new();
    for number in numbers {
        let number = usize::try_from(u32::from_be_bytes(*number)).ok()?;
        // Each once, and none that was not agreed on.
        if !agreed.contexts.contains(&number) || contexts.contains(&number) {
            return None;
        }
        contexts.push(number);
    }
    let agreed = Agreed { contexts, ..agreed.clone() };
    rest.is_empty().then(|| (u64::from_be_bytes(*len), agreed))
}

fn read_data(mut stream: &Stream, len: u64) -> io::Result<IoBuf> {
    let len = usize::try_from(len).unwrap_or(0);
    let mut data = IoBuf::zeroed(len);
    let mut piece = vec![0; PIECE.min(len)];
    let mut at = 0;
    while at < len {
        let n = piece.len().min(len - at);
        stream.read_exact(&mut piece[..n])?;
        data.write_at(at as u64, &piece[..n]);
        at += n;
    }
    Ok(data)
}

/// Writes replies as they come. After a failure they are only taken.
fn write_replies(stream: &Stream, replies: &Receiver<Reply>) {
    let mut piece = vec![0; PIECE];
    let mut broken = false;
    while let Ok(reply) = replies.recv() {
        if !broken && write_reply(stream, &reply, &mut piece).is_err() {
            broken = true;
            stream.shut_down();
        }
    }
}

fn write_reply(mut stream: &Stream, reply: &Reply, piece: &mut [u8]) -> io::Result<()> {
    for Part { head, data } in &reply.parts {
        // A short head goes with the first data.
        let mut fill = head.len();
        if head.len() > piece.len() {
            stream.write_all(head)?;
            fill = 0;
        } else {
            piece[..fill].copy_from_slice(head);
        }
        let mut at = 0;
        loop {
            let n = (data.len() - at).min((piece.len() - fill) as u64);
            let end = fill + usize::try_from(n).unwrap_or(0);
            data.read_at(at, &mut piece[fill..end]);
            stream.write_all(&piece[..end])?;
            at += n;
            fill = 0;
            if at >= data.len() {
                break;
            }
        }
    }
    Ok(())
}
