//! From a path to a service: which methods there are, on which port, and what kind of call each is.

use super::backend::Backend;
use super::body::ResponseBody;
use super::call::{self, Call, Refusal};
use super::connection::State;
use super::server::{Port, Server};
use super::stats::Operation;
use super::{admin, batch, cluster, health, kv, peer, pipeline, reflection, scan, seed, sync_keys};
use crate::types::{Failure, Reason};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use tonic::Code;

/// What is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    SeedGet,
    SeedPut,
    Replicate,
    SyncKeys,
    Heartbeat,
    GetRingState,
    Get,
    Put,
    Delete,
    Exists,
    BatchRead,
    BatchWrite,
    Pipeline,
    Scan,
    GetRing,
    GetStatus,
    Locate,
    GetConfig,
    HealthCheck,
    HealthWatch,
    Reflection,
    Link,
    Join,
    /// Named in a proto file, or not at all.
    Unknown,
}

impl Method {
    fn of_path(path: &str) -> Method {
        match path {
            "/KVStore/Get" => Method::SeedGet,
            "/KVStore/Put" => Method::SeedPut,
            "/NodeInternal/Replicate" => Method::Replicate,
            "/NodeInternal/SyncKeys" => Method::SyncKeys,
            "/NodeInternal/Heartbeat" => Method::Heartbeat,
            "/NodeInternal/GetRingState" => Method::GetRingState,
            "/ringcore.v1.KV/Get" => Method::Get,
            "/ringcore.v1.KV/Put" => Method::Put,
            "/ringcore.v1.KV/Delete" => Method::Delete,
            "/ringcore.v1.KV/Exists" => Method::Exists,
            "/ringcore.v1.KV/BatchRead" => Method::BatchRead,
            "/ringcore.v1.KV/BatchWrite" => Method::BatchWrite,
            "/ringcore.v1.KV/Pipeline" => Method::Pipeline,
            "/ringcore.v1.KV/Scan" => Method::Scan,
            "/ringcore.v1.Cluster/GetRing" => Method::GetRing,
            "/ringcore.v1.Cluster/GetStatus" => Method::GetStatus,
            "/ringcore.v1.Cluster/Locate" => Method::Locate,
            "/ringcore.v1.Admin/GetConfig" => Method::GetConfig,
            "/grpc.health.v1.Health/Check" => Method::HealthCheck,
            "/grpc.health.v1.Health/Watch" => Method::HealthWatch,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Method::Reflection,
            "/ringcore.peer.v1.Peer/Link" => Method::Link,
            "/ringcore.peer.v1.Peer/Join" => Method::Join,
            _ => Method::Unknown,
        }
    }

    /// Can it change data? Its failures then say what became of it.
    pub(crate) fn is_write(self) -> bool {
        matches!(
            self,
            Method::SeedPut
                | Method::Replicate
                | Method::Put
                | Method::Delete
                | Method::BatchWrite
                | Method::Pipeline
        )
    }

    /// Is it about records? Those are served only while the node takes part in quorums.
    pub(crate) fn needs_data(self) -> bool {
        match self {
            Method::SeedGet
            | Method::SeedPut
            | Method::Replicate
            | Method::SyncKeys
            | Method::Get
            | Method::Put
            | Method::Delete
            | Method::Exists
            | Method::BatchRead
            | Method::BatchWrite
            | Method::Pipeline
            | Method::Scan => true,
            Method::Heartbeat
            | Method::GetRingState
            | Method::GetRing
            | Method::GetStatus
            | Method::Locate
            | Method::GetConfig
            | Method::HealthCheck
            | Method::HealthWatch
            | Method::Reflection
            | Method::Link
            | Method::Join
            | Method::Unknown => false,
        }
    }

    pub(crate) fn operation(self) -> Operation {
        match self {
            Method::SeedGet | Method::Get => Operation::Get,
            Method::SeedPut | Method::Put => Operation::Put,
            Method::Delete => Operation::Delete,
            Method::Exists => Operation::Exists,
            Method::BatchRead => Operation::BatchRead,
            Method::BatchWrite => Operation::BatchWrite,
            Method::Pipeline => Operation::Pipeline,
            Method::Scan => Operation::Scan,
            Method::Replicate => Operation::Replicate,
            Method::SyncKeys => Operation::SyncKeys,
            Method::Link => Operation::Link,
            Method::Join => Operation::Other,
            Method::Heartbeat
            | Method::GetRingState
            | Method::GetRing
            | Method::GetStatus
            | Method::Locate
            | Method::GetConfig
            | Method::HealthCheck
            | Method::HealthWatch
            | Method::Reflection
            | Method::Unknown => Operation::Other,
        }
    }

    /// Is it served on that port? None = on neither.
    fn served_on(self, port: Port) -> Result<(), Misplaced> {
        match (self, port) {
            (Method::Unknown, _) => Err(Misplaced::Nowhere),
            (Method::Replicate | Method::SyncKeys | Method::Link | Method::Join, Port::Client) => {
                Err(Misplaced::PeerPort)
            }
            (
                Method::Replicate
                | Method::SyncKeys
                | Method::Heartbeat
                | Method::GetRingState
                | Method::HealthCheck
                | Method::HealthWatch
                | Method::Reflection
                | Method::Link
                | Method::Join,
                Port::Peer,
            )
            | (_, Port::Client) => Ok(()),
            (_, Port::Peer) => Err(Misplaced::Nowhere),
        }
    }
}

enum Misplaced {
    Nowhere,
    PeerPort,
}

/// Answers one call. What can be refused is refused here and now, so that the task made of the rest is small: it is
/// moved several times on its way to the executor.
pub(crate) fn route<B: Backend>(
    server: &Rc<Server<B>>,
    connection: &Rc<State>,
    port: Port,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + use<B> {
    let begun = begin(server, connection, port, &request);
    let body = request.into_body();
    dispatch(begun, body, port)
}

fn begin<B: Backend>(
    server: &Rc<Server<B>>,
    connection: &Rc<State>,
    port: Port,
    request: &Request<Incoming>,
) -> Result<Call<B>, Box<Response<ResponseBody>>> {
    if let Err(status) = check_http(request) {
        server.counters().record(Operation::Other, Code::Unknown, 0);
        return Err(Box::new(call::not_grpc(status)));
    }
    let method = Method::of_path(request.uri().path());
    let timeout_ns = call::timeout_ns(request.headers(), server.backend.limits());
    let call = Call::new(server, connection, method, timeout_ns);
    check_method(&call, port).map_err(|refusal| Box::new(call.refuse(refusal)))?;
    if is_compressed(request) {
        let refusal =
            Refusal::Protocol(Code::Unimplemented, "compressed messages are not served; send identity");
        let mut response = call.refuse(refusal);
        response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        return Err(Box::new(response));
    }
    Ok(call)
}

fn check_http(request: &Request<Incoming>) -> Result<(), StatusCode> {
    if request.method() != http::Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let content = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let is_proto =
        |rest: &[u8]| rest.is_empty() || rest[0] == b';' || rest == b"+proto" || rest.starts_with(b"+proto;");
    match content.strip_prefix(b"application/grpc") {
        Some(rest) if is_proto(rest) => Ok(()),
        Some(_) | None => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    }
}

async fn dispatch<B: Backend>(
    begun: Result<Call<B>, Box<Response<ResponseBody>>>,
    body: Incoming,
    port: Port,
) -> Result<Response<ResponseBody>, Infallible> {
    let call = match begun {
        Ok(call) => call,
        Err(refused) => return Ok(*refused),
    };
    // Boxed: what is rare or large of itself, so that it does not make every call as large.
    Ok(match call.method {
        Method::SeedGet => call.unary(body, &[], seed::get).await,
        Method::SeedPut => call.unary(body, &[], seed::put).await,
        Method::Get => call.unary(body, &[], kv::get).await,
        Method::Put => call.unary(body, &[], kv::put).await,
        Method::Delete => call.unary(body, &[], kv::delete).await,
        Method::Exists => call.unary(body, &[], kv::exists).await,
        Method::BatchRead => {
            let caps = [batch::keys_cap(call.limits())];
            Box::pin(call.unary(body, &caps, batch::read)).await
        }
        Method::BatchWrite => {
            let caps = [batch::keys_cap(call.limits())];
            Box::pin(call.unary(body, &caps, batch::write)).await
        }
        Method::Pipeline => pipeline::serve(call, body),
        Method::Scan => Box::pin(call.unary(body, &[], scan::scan)).await,
        Method::Replicate => Box::pin(call.unary(body, &[], seed::replicate)).await,
        Method::SyncKeys => Box::pin(call.unary(body, &sync_keys::CAPS, sync_keys::sync_keys)).await,
        Method::Heartbeat => Box::pin(call.unary(body, &[], seed::heartbeat)).await,
        Method::GetRingState => Box::pin(call.unary(body, &[], seed::ring_state)).await,
        Method::GetRing => Box::pin(call.unary(body, &[], cluster::ring)).await,
        Method::GetStatus => Box::pin(call.unary(body, &[], cluster::status)).await,
        Method::Locate => Box::pin(call.unary(body, &[], cluster::locate)).await,
        Method::GetConfig => Box::pin(call.unary(body, &[], admin::config)).await,
        Method::HealthCheck => Box::pin(call.unary(body, &[], health::check)).await,
        Method::HealthWatch => Box::pin(health::watch(call, body)).await,
        Method::Reflection => reflection::serve(call, body, port),
        Method::Link => peer::serve(call, body),
        Method::Join => Box::pin(call.unary(body, &[], peer::join::join)).await,
        Method::Unknown => unreachable!("refused before"),
    })
}

fn check_method<B: Backend>(call: &Call<B>, port: Port) -> Result<(), Refusal> {
    match call.method.served_on(port) {
        Ok(()) => Ok(call.check_phase()?),
        Err(Misplaced::Nowhere) => {
            Err(Refusal::Protocol(Code::Unimplemented, "no such method is served on this port"))
        }
        Err(Misplaced::PeerPort) => {
            let peers = &call.view.own().peer_address;
            let failure = Failure::not_applied(Reason::OtherPort);
            Err(failure.message(format!("served on the peer port, {peers}")).into())
        }
    }
}

fn is_compressed(request: &Request<Incoming>) -> bool {
    request.headers().get("grpc-encoding").is_some_and(|encoding| encoding.as_bytes() != b"identity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_port_serves_only_what_is_between_nodes() {
        for path in ["/ringcore.v1.KV/Get", "/KVStore/Put", "/ringcore.v1.Admin/GetConfig", "/x", ""] {
            assert!(Method::of_path(path).served_on(Port::Peer).is_err(), "{path}");
        }
        for path in [
            "/NodeInternal/Replicate",
            "/NodeInternal/SyncKeys",
            "/NodeInternal/Heartbeat",
            "/ringcore.peer.v1.Peer/Link",
            "/ringcore.peer.v1.Peer/Join",
        ] {
            assert!(Method::of_path(path).served_on(Port::Peer).is_ok(), "{path}");
        }
    }

    #[test]
    fn writes_are_about_data() {
        for path in ["/KVStore/Put", "/ringcore.v1.KV/Delete", "/NodeInternal/Replicate"] {
            let method = Method::of_path(path);
            assert!(method.is_write() && method.needs_data(), "{path}");
        }
    }
}
