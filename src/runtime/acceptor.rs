//! Listeners with exact options, and the one acceptor of the node.
//!
//! The acceptor is a plain thread. It gives each connection to the core that has the fewest, through a bounded queue;
//! what it cannot place it closes. A connection belongs to its core from then on (`net`).

use super::bell::{Bell, Post, Ringer};
use super::net::Stream;
use super::padded::Padded;
use super::sockets::Sockets;
use crate::types::CoreId;
use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::thread;

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 1_024;
/// Connections on their way to one core; beyond that it is too busy to be given more.
const ON_THE_WAY: usize = 1_024;
/// After an error that time may heal: no descriptors, no memory.
const RETRY_ACCEPT: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Who serves the connections of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The core with the fewest connections.
    LeastLoaded,
    /// This core: for clients that know which one owns their keys.
    Core(CoreId),
}

/// A bound port that accepts nothing yet.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// What it is for; comes back with each connection.
    pub port: Port,
    /// Who serves it.
    pub place: Place,
    /// Connections at once; more are closed as they come.
    pub connections_max: usize,
}

/// What a port is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// gRPC for applications.
    Clients,
    /// gRPC between nodes.
    Peers,
    /// HTTP for operators.
    Admin,
}

impl Listener {
    /// Binds an address. The port is this node's alone (no SO_REUSEPORT), and free again at once after a crash
    /// (SO_REUSEADDR).
    pub fn bind(
        address: SocketAddr,
        port: Port,
        place: Place,
        connections_max: usize,
    ) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // An address means itself: `::` does not take the IPv4 port too.
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Listener { socket, port, place, connections_max })
    }

    /// The address that it got, with the port if it was asked for with 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?;
        Ok(address.as_socket().expect("bound to an IP address"))
    }
}

/// Connections of a node, as its cores and the acceptor count them.
#[derive(Debug)]
pub struct Connections {
    /// Open or on their way, by core.
    cores: Vec<Padded<AtomicUsize>>,
    /// By port.
    ports: [AtomicUsize; 3],
    refused: AtomicU64,
}

impl Connections {
    fn new(cores: usize) -> Connections {
        Connections {
            cores: (0..cores).map(|_| Padded::default()).collect(),
            ports: Default::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Connections of a core.
    pub fn on_core(&self, core: CoreId) -> usize {
        self.cores[usize::from(core.0)].load(Relaxed)
    }

    /// Connections of a port.
    pub fn on_port(&self, port: Port) -> usize {
        self.ports[port as usize].load(Relaxed)
    }

    /// Connections that were closed because there was no room for them.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// The core with the fewest; of several, the first.
    fn least_loaded(&self) -> usize {
        let counts = self.cores.iter().enumerate().map(|(core, count)| (count.load(Relaxed), core));
        counts.min().expect("a node has a core").1
    }
}

/// The place that a connection takes up, given back when dropped.
#[derive(Debug)]
pub(super) struct Counted {
    connections: Arc<Connections>,
    core: usize,
    port: Port,
}

impl Counted {
    fn new(connections: &Arc<Connections>, core: usize, port: Port) -> Counted {
        connections.cores[core].fetch_add(1, Relaxed);
        connections.ports[port as usize].fetch_add(1, Relaxed);
        Counted { connections: Arc::clone(connections), core, port }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.cores[self.core].fetch_sub(1, Relaxed);
        self.connections.ports[self.port as usize].fetch_sub(1, Relaxed);
    }
}

/// A connection on its way to its core.
#[derive(Debug)]
pub struct Arrival {
    socket: Socket,
    counted: Counted,
    /// Who is at the other end.
    pub remote: SocketAddr,
    /// Where it came in.
    pub port: Port,
}

impl Arrival {
    /// Takes the connection over, on the core that was given it.
    pub fn into_stream(self, sockets: &Sockets) -> io::Result<Stream> {
        Stream::accepted(self.socket, self.counted, sockets)
    }
}

/// A core's queue of arrivals.
struct Lane {
    queue: ArrayQueue<Arrival>,
    post: Post,
    /// Nothing will be added any more.
    closed: AtomicBool,
}

/// The queues of all cores, as the acceptor fills them.
struct Lanes {
    lanes: Vec<Arc<Lane>>,
    ringers: Vec<Option<Ringer>>,
}

impl Lanes {
    fn new(cores: usize) -> Lanes {
        let lane = |_| {
            let queue = ArrayQueue::new(ON_THE_WAY);
            Arc::new(Lane { queue, post: Post::default(), closed: AtomicBool::new(false) })
        };
        Lanes { lanes: (0..cores).map(lane).collect(), ringers: (0..cores).map(|_| None).collect() }
    }

    /// Tells all cores to look.
    fn ring(&mut self) {
        for (lane, ringer) in self.lanes.iter().zip(&mut self.ringers) {
            if ringer.is_none() {
                // None: the core has not opened its queue. It will look into it when it does.
                *ringer = lane.post.fetch();
            }
            if let Some(ringer) = ringer {
                ringer.ring();
            }
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.closed.store(true, Release);
        }
        self.ring();
    }
}

/// A core's claim to its connections, until its executor runs.
pub struct Intake(Arc<Lane>);

impl Intake {
    /// Opens the queue on this core's executor.
    pub async fn open(self) -> Arrivals {
        let (ringer, bell) = Bell::new().await;
        self.0.post.leave(ringer);
        Arrivals { lane: self.0, bell }
    }
}

/// Connections that were given to this core.
pub struct Arrivals {
    lane: Arc<Lane>,
    bell: Bell,
}

impl Arrivals {
    /// Waits for the next connection; None when the acceptor has stopped and none is left.
    pub async fn next(&mut self) -> Option<Arrival> {
        loop {
            if let Some(arrival) = self.lane.queue.pop() {
                return Some(arrival);
            }
            if self.lane.closed.load(Acquire) {
                // Pushed before it was closed, seen after.
                return self.lane.queue.pop();
            }
            self.bell.heard().await;
        }
    }
}

/// Gives connections to cores; not yet running.
pub struct Acceptor {
    lanes: Lanes,
    connections: Arc<Connections>,
}

impl Acceptor {
    /// An acceptor for this many cores, and what each of them needs to get its share.
    pub fn new(cores: usize) -> (Acceptor, Vec<Intake>) {
        let lanes = Lanes::new(cores);
        let intakes = lanes.lanes.iter().map(|lane| Intake(Arc::clone(lane))).collect();
        (Acceptor { lanes, connections: Arc::new(Connections::new(cores)) }, intakes)
    }

    /// The counts.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Accepts until the answer is dropped.
    pub fn start(self, listeners: Vec<Listener>) -> io::Result<Accepting> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let accept = Accept { lanes: self.lanes, connections: self.connections, listeners };
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("acceptor".into()).spawn(move || accept.run(&stopped))?;
        Ok(Accepting { stop, thread: Some(thread) })
    }
}

/// The running acceptor. Dropping it closes the listeners and tells the cores that no connection comes any more.
pub struct Accepting {
    stop: Arc<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Accepting {
    fn drop(&mut self) {
        // Any number but 0 will do.
        rustix::io::write(&*self.stop, &[1; 8]).expect("an eventfd takes its first count");
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _panicked = thread.join();
        }
    }
}

/// The acceptor's thread.
struct Accept {
    lanes: Lanes,
    connections: Arc<Connections>,
    listeners: Vec<Listener>,
}

impl Accept {
    fn run(mut self, stop: &OwnedFd) {
        loop {
            let mut waits = vec![PollFd::new(stop, PollFlags::IN)];
            waits.extend(self.listeners.iter().map(|listener| PollFd::new(&listener.socket, PollFlags::IN)));
            match poll(&mut waits, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("the acceptor cannot wait for connections: {error}"),
            }
            if !waits[0].revents().is_empty() {
                return;
            }
            let ready: Vec<_> = waits[1..].iter().map(|wait| !wait.revents().is_empty()).collect();
            let mut out_of_room = false;
            for index in (0..ready.len()).filter(|&index| ready[index]) {
                out_of_room |= self.accept_some(index).is_err();
            }
            self.lanes.ring();
            if out_of_room {
                // Out of descriptors or memory, and the listener stays readable: wait, but for the end.
                let mut wait = [PollFd::new(stop, PollFlags::IN)];
                // Interrupted or not, the loop looks again.
                let _waited = poll(&mut wait, Some(&RETRY_ACCEPT));
            }
        }
    }

    /// Accepts what is there, up to a bound so that the other listeners get their turn.
    fn accept_some(&mut self, index: usize) -> Result<(), io::Error> {
        for _ in 0..256 {
            match self.listeners[index].socket.accept() {
                Ok((socket, remote)) => self.place(index, socket, remote.as_socket()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn place(&mut self, index: usize, socket: Socket, remote: Option<SocketAddr>) {
        let Listener { port, place, connections_max, .. } = self.listeners[index];
        let core = match place {
            Place::LeastLoaded => self.connections.least_loaded(),
            Place::Core(core) => usize::from(core.0),
        };
        let room = self.connections.on_port(port) < connections_max;
        // A socket that is dropped is closed: the client sees it at once and goes elsewhere.
        let (Some(remote), true, Ok(())) = (remote, room, socket.set_tcp_nodelay(true)) else {
            self.connections.refused.fetch_add(1, Relaxed);
            return;
        };
        let counted = Counted::new(&self.connections, core, port);
        if self.lanes.lanes[core].queue.push(Arrival { socket, counted, remote, port }).is_err() {
            self.connections.refused.fetch_add(1, Relaxed);
        }
    }
}

/// Errors of accept that concern the connection, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        Some(
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::PERM
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::OPNOTSUPP
                | Errno::TIMEDOUT
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executor::{CoreContext, start};
    use std::io::Read;
    use std::net::TcpStream as StdStream;
    use std::sync::Mutex;
    use std::time::Duration;

    fn anywhere(connections_max: usize, place: Place) -> Listener {
        Listener::bind("127.0.0.1:0".parse().unwrap(), Port::Clients, place, connections_max).unwrap()
    }

    #[test]
    fn port_is_not_shared_but_free_again_at_once() {
        let listener = anywhere(1, Place::LeastLoaded);
        let address = listener.address().unwrap();
        let bind = || Listener::bind(address, Port::Clients, Place::LeastLoaded, 1);
        assert_eq!(bind().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // Closed by this side first: the address lingers in TIME_WAIT.
        let mut client = StdStream::connect(address).unwrap();
        let (server, _) = listener.socket.accept().unwrap();
        drop((server, listener));
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        bind().unwrap();
    }

    /// Two cores that hold every connection they get until they are told to stop; each returns how many it got.
    fn hold_connections(
        listener: impl FnOnce() -> Listener,
        clients: impl FnOnce(SocketAddr, &Connections) -> Vec<StdStream>,
    ) -> Vec<usize> {
        let (acceptor, intakes) = Acceptor::new(2);
        let intakes: Arc<Mutex<Vec<_>>> = Arc::new(Mutex::new(intakes.into_iter().map(Some).collect()));
        let cores = start(&[None, None], move |context: CoreContext| {
            let intake = intakes.lock().unwrap()[usize::from(context.core.0)].take().unwrap();
            async move {
                let mut arrivals = intake.open().await;
                let mut streams = Vec::new();
                while let Some(arrival) = arrivals.next().await {
                    streams.push(arrival.into_stream(&context.sockets).unwrap());
                }
                streams.len()
            }
        })
        .unwrap();
        let connections = Arc::clone(acceptor.connections());
        let listener = listener();
        let address = listener.address().unwrap();
        let accepting = acceptor.start(vec![listener]).unwrap();
        let clients = clients(address, &connections);
        drop(accepting);
        let held = cores.join().unwrap();
        drop(clients);
        assert_eq!(connections.on_port(Port::Clients), 0);
        assert_eq!(connections.on_core(CoreId(0)) + connections.on_core(CoreId(1)), 0);
        held
    }

    /// True if the other side has closed the connection, false if it says nothing for a while.
    fn is_closed(client: &mut StdStream) -> bool {
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        !matches!(client.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn wait_for(mut condition: impl FnMut() -> bool) {
        while !condition() {
            thread::yield_now();
        }
    }

    #[test]
    fn connections_are_spread_evenly() {
        let held = hold_connections(
            || anywhere(100, Place::LeastLoaded),
            |address, connections| {
                let clients = (0..20).map(|_| StdStream::connect(address).unwrap()).collect();
                wait_for(|| connections.on_port(Port::Clients) == 20);
                clients
            },
        );
        assert_eq!(held, [10, 10]);
    }

    #[test]
    fn port_of_one_core_gives_it_all() {
        let held = hold_connections(
            || anywhere(100, Place::Core(CoreId(1))),
            |address, connections| {
                let clients = (0..5).map(|_| StdStream::connect(address).unwrap()).collect();
                wait_for(|| connections.on_port(Port::Clients) == 5);
                clients
            },
        );
        assert_eq!(held, [0, 5]);
    }

    #[test]
    fn connection_beyond_the_limit_is_closed_and_counted() {
        let held = hold_connections(
            || anywhere(3, Place::LeastLoaded),
            |address, connections| {
                let mut clients: Vec<_> = (0..4).map(|_| StdStream::connect(address).unwrap()).collect();
                wait_for(|| connections.refused() == 1);
                assert!(is_closed(&mut clients[3]) && !is_closed(&mut clients[0]));
                clients
            },
        );
        assert_eq!(held.iter().sum::<usize>(), 3);
    }
}
