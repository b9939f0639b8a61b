//! Redis' protocol (RESP 2): GET, SET and DEL; a batch is as many commands sent together.

use super::{Action, Answer, Ended, Refusal, Request, Session, broken};
use std::collections::VecDeque;
use std::io::{self, Write as _};

/// A request whose replies are not all there.
struct Waiting {
    tag: u32,
    keys: u32,
    replies: usize,
    absent: u32,
    failed: u32,
    reads: bool,
}

/// One connection's session.
#[derive(Default)]
pub(crate) struct Redis {
    out: Vec<u8>,
    waiting: VecDeque<Waiting>,
}

impl Session for Redis {
    fn has_room(&self) -> bool {
        true
    }

    fn begin(&mut self, request: &Request, tag: u32) {
        let replies = request.keys().len();
        match request.action {
            Action::Read => request.keys().for_each(|key| command(&mut self.out, &[b"GET", key])),
            Action::Write => {
                request.pairs().for_each(|(key, value)| command(&mut self.out, &[b"SET", key, value]));
            }
            Action::Delete => request.keys().for_each(|key| command(&mut self.out, &[b"DEL", key])),
            Action::Scan => unreachable!("not offered for this server"),
        }
        let reads = request.action == Action::Read;
        self.waiting.push_back(Waiting { tag, keys: replies as u32, replies, absent: 0, failed: 0, reads });
    }

    fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    fn take_in(&mut self, bytes: &[u8], ended: &mut dyn FnMut(Ended)) -> io::Result<usize> {
        let mut at = 0;
        while let Some((reply, used)) = reply(&bytes[at..])? {
            at += used;
            let waiting = self.waiting.front_mut().ok_or_else(|| broken("a reply to nothing"))?;
            waiting.replies -= 1;
            waiting.absent += u32::from(waiting.reads && reply == Reply::Nothing);
            waiting.failed += u32::from(reply == Reply::Error);
            if waiting.replies == 0
                && let Some(Waiting { tag, keys, absent, failed, .. }) = self.waiting.pop_front()
            {
                let refused = failed == keys;
                let answer =
                    if refused { Answer::Refused(Refusal::Said) } else { Answer::Done { absent, failed } };
                ended(Ended { tag, answer });
            }
        }
        Ok(at)
    }

    fn open(&self) -> usize {
        self.waiting.len()
    }

    fn cut(&mut self, ended: &mut dyn FnMut(Ended)) {
        for waiting in self.waiting.drain(..) {
            ended(Ended { tag: waiting.tag, answer: Answer::Refused(Refusal::Cut) });
        }
    }
}

fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    number(out, b'*', words.len());
    for word in words {
        number(out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn number(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    write!(out, "{number}\r\n").expect("memory takes all that is written");
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reply {
    Something,
    Nothing,
    Error,
}

/// The first reply and its length; None if it is not all there.
fn reply(bytes: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = end + 2;
    match bytes[0] {
        b'+' | b':' => Ok(Some((Reply::Something, line))),
        b'-' => Ok(Some((Reply::Error, line))),
        b'$' if bytes[1] == b'-' => Ok(Some((Reply::Nothing, line))),
        b'$' => {
            let text = std::str::from_utf8(&bytes[1..end]).ok();
            let length: usize =
                text.and_then(|text| text.parse().ok()).ok_or_else(|| broken("a length that is none"))?;
            let whole = line + length + 2;
            Ok((bytes.len() >= whole).then_some((Reply::Something, whole)))
        }
        _ => Err(broken("a reply of an unknown kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_replies_of_a_batch() {
        let mut redis = Redis::default();
        let mut request = Request::new(1);
        request.reset(Action::Write);
        request.keys.extend_from_slice(b"ab");
        request.values.extend_from_slice(b"xyz");
        request.value_ends.extend([1, 3]);
        redis.begin(&request, 5);
        let said = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nx\r\n*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$2\r\nyz\r\n";
        assert_eq!(redis.out(), said);
        request.reset(Action::Read);
        request.keys.extend_from_slice(b"abc");
        redis.begin(&request, 6);
        let mut ended = Vec::new();
        let replies = b"+OK\r\n-OOM no room\r\n$2\r\n\r\n\r\n$-1\r\n$0\r\n\r\n$1";
        let used = redis.take_in(replies, &mut |end| ended.push(end)).unwrap();
        assert_eq!(used, replies.len() - 2);
        let done = |tag, absent, failed| Ended { tag, answer: Answer::Done { absent, failed } };
        assert_eq!(ended, [done(5, 0, 1), done(6, 1, 0)]);
        request.reset(Action::Delete);
        request.keys.push(b'a');
        redis.begin(&request, 7);
        let mut refused = Vec::new();
        redis.take_in(b"-READONLY\r\n", &mut |end| refused.push(end.answer)).unwrap();
        assert_eq!(refused, [Answer::Refused(Refusal::Said)]);
        assert!(redis.take_in(b"+OK\r\n", &mut |_| ()).is_err(), "nobody asked");
    }
}
