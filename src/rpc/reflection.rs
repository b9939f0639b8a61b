//! `grpc.reflection`, v1 and v1alpha, which are the same on the wire: the proto files, by name and by what they declare.

use super::backend::Backend;
use super::body::{Chunk, ResponseBody, Source};
use super::budget::Held;
use super::call::{self, Call, Refusal};
use super::codec::{self, Messages};
use super::proto;
use super::server::{Port, Raised};
use crate::types::{Failure, Reason};
use http::Response;
use http_body::Frame;
use hyper::body::Incoming;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tonic::Code;
use tonic_reflection::pb::v1 as pb;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

/// Every service, and whether each port has it.
pub(crate) const SERVICES: [(&str, [bool; 2]); 9] = [
    ("KVStore", CLIENTS),
    ("NodeInternal", BOTH),
    ("grpc.health.v1.Health", BOTH),
    ("grpc.reflection.v1.ServerReflection", BOTH),
    ("grpc.reflection.v1alpha.ServerReflection", BOTH),
    ("ringcore.peer.v1.Peer", PEERS),
    ("ringcore.v1.Admin", CLIENTS),
    ("ringcore.v1.Cluster", CLIENTS),
    ("ringcore.v1.KV", CLIENTS),
];
/// By [`Port`].
const CLIENTS: [bool; 2] = [true, false];
const PEERS: [bool; 2] = [false, true];
const BOTH: [bool; 2] = [true, true];

/// The files, found by name and by symbol.
#[derive(Clone)]
pub(crate) struct Index(Rc<Files>);

#[derive(Default)]
struct Files {
    by_name: BTreeMap<String, File>,
    /// Fully qualified names of services, methods, messages and enums, and the file of each.
    by_symbol: BTreeMap<String, String>,
}

struct File {
    /// As it came out of the compiler.
    bytes: Vec<u8>,
    dependencies: Vec<String>,
}

impl Index {
    /// Of every file that a service needs.
    pub(crate) fn new() -> Index {
        let sets = [
            proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut files = Files::default();
        for set in sets {
            let set = FileSet::decode(set).expect("a descriptor set made at build time");
            for bytes in set.file {
                files.add(bytes);
            }
        }
        Index(Rc::new(files))
    }

    fn answer(&self, port: Port, request: &MessageRequest) -> MessageResponse {
        match request {
            MessageRequest::ListServices(_) => {
                let services = SERVICES.iter().filter(|(_, ports)| ports[port as usize]);
                let service = services.map(|(name, _)| pb::ServiceResponse { name: (*name).to_owned() });
                MessageResponse::ListServicesResponse(pb::ListServiceResponse { service: service.collect() })
            }
            MessageRequest::FileByFilename(name) => self.file(name),
            MessageRequest::FileContainingSymbol(symbol) => match self.0.by_symbol.get(symbol) {
                Some(name) => self.file(name),
                None => not_found(symbol),
            },
            MessageRequest::FileContainingExtension(extension) => not_found(&extension.containing_type),
            MessageRequest::AllExtensionNumbersOfType(name) if self.0.by_symbol.contains_key(name) => {
                let base_type_name = name.clone();
                let none = pb::ExtensionNumberResponse { base_type_name, extension_number: Vec::new() };
                MessageResponse::AllExtensionNumbersResponse(none)
            }
            MessageRequest::AllExtensionNumbersOfType(name) => not_found(name),
        }
    }

    /// A file and all that it imports, itself first.
    fn file(&self, name: &str) -> MessageResponse {
        if !self.0.by_name.contains_key(name) {
            return not_found(name);
        }
        let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
        let mut next = vec![name];
        while let Some(name) = next.pop() {
            if seen.insert(name)
                && let Some(file) = self.0.by_name.get(name)
            {
                files.push(file.bytes.clone());
                next.extend(file.dependencies.iter().map(String::as_str));
            }
        }
        MessageResponse::FileDescriptorResponse(pb::FileDescriptorResponse { file_descriptor_proto: files })
    }
}

impl Files {
    fn add(&mut self, bytes: Vec<u8>) {
        let file = FileHeader::decode(&bytes[..]).expect("a file descriptor made at build time");
        let scope = if file.package.is_empty() { String::new() } else { format!("{}.", file.package) };
        for service in &file.service {
            self.by_symbol.insert(format!("{scope}{}", service.name), file.name.clone());
            for method in &service.method {
                let symbol = format!("{scope}{}.{}", service.name, method.name);
                self.by_symbol.insert(symbol, file.name.clone());
            }
        }
        self.add_types(&file.name, &scope, &file.message_type, &file.enum_type);
        self.by_name.insert(file.name, File { bytes, dependencies: file.dependency });
    }

    fn add_types(&mut self, file: &str, scope: &str, messages: &[MessageHeader], enums: &[Named]) {
        for one in enums {
            self.by_symbol.insert(format!("{scope}{}", one.name), file.to_owned());
        }
        for message in messages {
            let name = format!("{scope}{}", message.name);
            self.add_types(file, &format!("{name}."), &message.nested_type, &message.enum_type);
            self.by_symbol.insert(name, file.to_owned());
        }
    }
}

fn not_found(what: &str) -> MessageResponse {
    MessageResponse::ErrorResponse(pb::ErrorResponse {
        error_code: Code::NotFound as i32,
        error_message: format!("{what} is not declared here"),
    })
}

/// Begins the stream: each question is answered before the next is read.
pub(crate) fn serve<B: Backend>(call: Call<B>, body: Incoming, port: Port) -> Response<ResponseBody> {
    let stream = Stream {
        messages: call.messages(body),
        stopping: call.server.stopping.wait(),
        held: call.hold(),
        ended: false,
        port,
        call,
    };
    call::accepted(ResponseBody::Stream(Box::new(stream)))
}

struct Stream<B: Backend> {
    call: Call<B>,
    messages: Messages<Incoming>,
    stopping: Raised,
    held: Held,
    ended: bool,
    port: Port,
}

impl<B: Backend> Source for Stream<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Chunk>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = if Pin::new(&mut self.stopping).poll(cx).is_ready() {
            Err(Failure::not_applied(Reason::Stopping).into())
        } else {
            ready!(self.messages.poll_next(cx)).and_then(|received| match received {
                Some(received) => self.answer(received.bytes).map(Some),
                None => Ok(None),
            })
        };
        let end = match next {
            Ok(Some(bytes)) => {
                self.held.grow_over(bytes.len());
                let held = self.held.split(bytes.len());
                return Poll::Ready(Some(Frame::data(Chunk::new(bytes, held))));
            }
            Ok(None) => self.call.succeed().headers(),
            Err(refusal) => self.call.fail(refusal),
        };
        self.ended = true;
        Poll::Ready(Some(Frame::trailers(end)))
    }
}

impl<B: Backend> Stream<B> {
    fn answer(&self, bytes: bytes::Bytes) -> Result<bytes::Bytes, Refusal> {
        let request: pb::ServerReflectionRequest = codec::decode(bytes, &[])?;
        let question = request.message_request.as_ref();
        let answer = question.map(|question| self.call.server.reflection.answer(self.port, question));
        Ok(codec::encode(&pb::ServerReflectionResponse {
            valid_host: request.host.clone(),
            original_request: Some(request),
            message_response: answer,
        }))
    }
}

/// `google.protobuf.FileDescriptorSet`, its files left as they are.
#[derive(Clone, PartialEq, Message)]
struct FileSet {
    #[prost(bytes = "vec", repeated, tag = "1")]
    file: Vec<Vec<u8>>,
}

/// What of a `FileDescriptorProto` is needed to find it.
#[derive(Clone, PartialEq, Message)]
struct FileHeader {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    package: String,
    #[prost(string, repeated, tag = "3")]
    dependency: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    message_type: Vec<MessageHeader>,
    #[prost(message, repeated, tag = "5")]
    enum_type: Vec<Named>,
    #[prost(message, repeated, tag = "6")]
    service: Vec<ServiceHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct MessageHeader {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    nested_type: Vec<MessageHeader>,
    #[prost(message, repeated, tag = "4")]
    enum_type: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct ServiceHeader {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    method: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(response: MessageResponse) -> Vec<String> {
        match response {
            MessageResponse::FileDescriptorResponse(files) => files
                .file_descriptor_proto
                .iter()
                .map(|bytes| FileHeader::decode(&bytes[..]).unwrap().name)
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_service_is_declared_in_a_file() {
        let index = Index::new();
        for (service, _) in SERVICES {
            let files =
                files(index.answer(Port::Client, &MessageRequest::FileContainingSymbol(service.into())));
            assert!(!files.is_empty(), "{service}");
        }
    }

    #[test]
    fn file_brings_its_imports() {
        let index = Index::new();
        let request = MessageRequest::FileByFilename("ringcore/v1/admin.proto".into());
        let mut found = files(index.answer(Port::Client, &request));
        assert_eq!(found.remove(0), "ringcore/v1/admin.proto");
        found.sort();
        assert_eq!(found, ["ringcore/v1/cluster.proto", "ringcore/v1/kv.proto"]);
    }

    #[test]
    fn methods_nested_messages_and_enums_are_symbols() {
        let index = Index::new();
        for symbol in [
            "KVStore.Get",
            "GetRequest",
            "ringcore.v1.KV.Scan",
            "ringcore.v1.Change.Join",
            "ringcore.v1.Level",
            "grpc.health.v1.HealthCheckResponse.ServingStatus",
        ] {
            assert!(index.0.by_symbol.contains_key(symbol), "{symbol}");
        }
        assert!(!index.0.by_symbol.contains_key("ringcore.v1.Nothing"));
    }
}
