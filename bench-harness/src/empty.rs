//! Services that answer at once: the empty one has the node's executors, acceptor, connections, router and messages, with
//! nothing behind them. What a node costs beyond it is the machine, the table, the log and the ways between cores.

use crate::plain;
use bytes::Bytes;
use ringcore::rpc::backend::{Backend, Liveness, MemberState, MemberView, NodeStatus, Phase, Setting, View};
use ringcore::rpc::io;
use ringcore::rpc::peer::{Frame, Hello, Welcome};
use ringcore::rpc::server::{Port, Server, Settings};
use ringcore::rpc::stats::Counters;
use ringcore::runtime::acceptor::{self, Acceptor, Intake, Listener, Place};
use ringcore::runtime::clock;
use ringcore::runtime::cpus::{Available, CoresWanted};
use ringcore::runtime::executor::{self, CoreContext, Queues};
use ringcore::runtime::tick::{Sleep, Ticker};
use ringcore::types::request::{Answer, Operation, ReadAnswer, Reply, Request, WriteAnswer};
use ringcore::types::{ClusterId, CoreId, Failure, Hlc, Limits, MemberId, Mono, Now, Version};
use std::error::Error;
use std::future::{Future, Ready, ready};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// Connections of the whole service: more than any comparison opens.
const CONNECTIONS_MAX: usize = 1_024;

/// What stands between the sockets and the answers.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stack {
    /// All that a node has there.
    Node,
    /// hyper and tonic as they come.
    Plain,
}

/// Serves until it is killed.
pub(crate) fn run(listen: SocketAddr, cores: CoresWanted, stack: Stack) -> Result<(), Box<dyn Error>> {
    let cpus = Available::read()?.plan(&cores, true)?;
    let listener = Listener::bind(listen, acceptor::Port::Clients, Place::LeastLoaded, CONNECTIONS_MAX)?;
    let (acceptor, intakes) = Acceptor::new(cpus.len());
    let intakes: Arc<Vec<_>> = Arc::new(intakes.into_iter().map(|intake| Mutex::new(Some(intake))).collect());
    let counters: Arc<[Counters]> = cpus.iter().map(|_| Counters::new()).collect();
    let main = move |context: CoreContext| {
        let slot = &intakes[usize::from(context.core.0)];
        let intake = slot.lock().expect("nobody panicked").take().expect("taken once");
        serve(context, intake, Arc::clone(&counters), stack)
    };
    let cores = executor::start(&cpus, main)?;
    let _accepting = acceptor.start(vec![listener])?;
    cores.join()?;
    Ok(())
}

async fn serve(context: CoreContext, intake: Intake, counters: Arc<[Counters]>, stack: Stack) {
    let mut arrivals = intake.open().await;
    let (queues, sockets) = (context.queues.clone(), context.sockets.clone());
    let server = Server::new(Empty(Rc::new(Inner::new(context))), Settings::default(), counters);
    let (queue, scratch) = (queues.requests, io::scratch());
    while let Some(arrival) = arrivals.next().await {
        let stream = match arrival.into_stream(&sockets) {
            Ok(stream) => stream,
            Err(error) => {
                eprintln!("a connection cannot be taken over: {error}");
                continue;
            }
        };
        match stack {
            Stack::Node => queue.spawn(Rc::clone(&server).serve(stream, Port::Client)).detach(),
            Stack::Plain => queue.spawn(plain::serve(stream, scratch.clone(), queue.clone())).detach(),
        }
    }
}

/// Answers every request at once, with as many bytes as a node would.
#[derive(Clone)]
struct Empty(Rc<Inner>);

struct Inner {
    core: CoreId,
    cores: u16,
    queues: Queues,
    ticker: Ticker,
    limits: Limits,
    view: Rc<View>,
    value: Bytes,
}

impl Inner {
    fn new(context: CoreContext) -> Inner {
        Inner {
            core: context.core,
            cores: context.cores as u16,
            queues: context.queues,
            ticker: context.ticker,
            limits: Limits::default(),
            view: Rc::new(view()),
            value: Bytes::from(vec![b'v'; crate::targets::VALUE_BYTES]),
        }
    }
}

impl Backend for Empty {
    type Reply = Ready<Reply>;
    type Sleep = Sleep;

    fn submit(&self, request: Request) -> Ready<Reply> {
        // A clock's number of usual size, so that it is as long on the wire.
        let version = Version::new(Hlc::at_ms(clock::now().wall_ms), MemberId::FIRST);
        ready(Ok(match request.operation {
            Operation::Read { .. } => {
                let value = self.0.value.clone();
                let value_bytes = value.len() as u32;
                Answer::Read(ReadAnswer { version, exists: true, value, value_bytes, expires_at_ms: 0 })
            }
            Operation::Put { .. }
            | Operation::Delete { .. }
            | Operation::Replicate { .. }
            | Operation::Scan(_)
            | Operation::Join(_) => Answer::Write(WriteAnswer { version, had_old: false, old: Bytes::new() }),
        }))
    }

    fn submit_to(&self, _: CoreId, request: Request) -> Ready<Reply> {
        self.submit(request)
    }

    fn peer_hello(&self, hello: Hello) -> Result<Welcome, Failure> {
        hello.admit(&self.0.view)
    }

    fn peer_frame(&self, _: MemberId, _: Frame) -> Result<(), Frame> {
        Ok(())
    }

    fn core(&self) -> CoreId {
        self.0.core
    }

    fn cores(&self) -> u16 {
        self.0.cores
    }

    fn now(&self) -> Now {
        clock::now()
    }

    fn mono(&self) -> Mono {
        clock::mono()
    }

    fn last_tick(&self) -> Mono {
        self.0.ticker.last_tick()
    }

    fn sleep_until(&self, at: Mono) -> Sleep {
        self.0.ticker.sleep_until(at)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.queues.requests.spawn(task).detach();
    }

    fn limits(&self) -> &Limits {
        &self.0.limits
    }

    fn view(&self) -> Rc<View> {
        Rc::clone(&self.0.view)
    }

    fn status(&self) -> NodeStatus {
        NodeStatus::default()
    }

    fn settings(&self) -> Vec<Setting> {
        Vec::new()
    }
}

/// A cluster of this service alone.
fn view() -> View {
    let member = MemberView {
        id: MemberId::FIRST,
        name: "empty".to_owned(),
        client_address: String::new(),
        peer_address: String::new(),
        admin_address: String::new(),
        core_addresses: Vec::new(),
        zone: String::new(),
        weight_percent: 100,
        state: MemberState::Normal,
        liveness: Liveness::Alive,
        cores: 1,
        placement: MemberId::FIRST,
        tokens: Vec::new(),
        build: String::new(),
    };
    View {
        phase: Phase::Serving,
        cluster: ClusterId::default(),
        epoch: 1,
        epoch_hash: [0; 8],
        ring: 0xFFFF_FFFF,
        updated_at_ms: 0,
        replication_target: 1,
        replication: 1,
        own: 0,
        members: vec![member],
        slot_replicas: vec![0; ringcore::types::SLOTS],
    }
}
