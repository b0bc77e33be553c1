//! One client: a thread reads its requests, an iothread does them, another thread writes the
//! replies. A client that sends too much or takes nothing holds up itself alone.
use super::credit::{Credit, Ticket};
use super::execute::{Part, Replies, execute, refusal};
use super::export::Export;
use super::negotiate::{Agreed, Offer, negotiate};
use super::spec::{Command, DATA_MAX, REQUEST_LEN, Request};
use super::stream::{Stream, Until};
use spindle_block::IoBuf;
use spindle_block::iothread::Handle;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Data is moved between sockets and memory in pieces of so many bytes.
const PIECE: usize = 128 << 10;

/// A reply, and what its request holds until it is written.
struct Reply {
    parts: Vec<Part>,
    _ticket: Ticket,
}

/// Serves a client until it goes. `limit`: how long its handshake may take.
///
/// # Errors
///
/// The connection broke, or the client does not speak the protocol.
pub(super) fn serve(
    stream: &Stream,
    offer: &Offer,
    export: &Arc<Export>,
    iothread: &Handle,
    limit: Option<Duration>,
) -> io::Result<()> {
    let Some(agreed) = negotiate(Until::new(stream, limit), offer)? else { return Ok(()) };
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
    stream.shut_down();
    result
}

fn read_requests(
    mut stream: &Stream,
    export: &Arc<Export>,
    agreed: &Arc<Agreed>,
    iothread: &Handle,
    credit: &Arc<Credit>,
    replies: &Sender<Reply>,
) -> io::Result<()> {
    let mut head = [0; REQUEST_LEN];
    loop {
        match stream.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let Some(request) = Request::parse(&head) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no request"));
        };
        let is_write = request.command == Some(Command::Write);
        match request.command {
            Some(Command::Disconnect) => return Ok(()),
            _ if is_write && request.len > DATA_MAX => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a write is too long"));
            }
            _ => {}
        }
        let refused = refusal(export, agreed, &request);
        let holds = is_write || (request.command == Some(Command::Read) && refused.is_none());
        let ticket = credit.take(if holds { request.len.into() } else { 0 });
        let data = if is_write { read_data(stream, request.len)? } else { IoBuf::empty() };
        if let Some(error) = refused {
            let parts = Replies::new(agreed, request.cookie).error(error);
            // A writer that has gone has ended the connection.
            let _ = replies.send(Reply { parts, _ticket: ticket });
            continue;
        }
        let (export, agreed, replies) = (Arc::clone(export), Arc::clone(agreed), replies.clone());
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

fn read_data(mut stream: &Stream, len: u32) -> io::Result<IoBuf> {
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
