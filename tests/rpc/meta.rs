//! What tools ask: health, reflection, the ring, the counters, the configuration.

use super::client::{Bench, reason, run, still_pending};
use futures_util::{StreamExt, stream};
use ringcore::rpc::backend::Phase;
use ringcore::rpc::proto::v1;
use ringcore::rpc::server::Port;
use ringcore::types::{SLOTS, Token};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1 as reflection;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

fn status(answer: HealthCheckResponse) -> ServingStatus {
    answer.status()
}

#[test]
fn health_follows_the_phase_on_both_ports() {
    run(async |bench| {
        for port in [Port::Client, Port::Peer] {
            let mut health = HealthClient::new(bench.channel(port).await);
            for (phase, expected) in [
                (Phase::Starting, ServingStatus::NotServing),
                (Phase::Serving, ServingStatus::Serving),
                (Phase::Stopping, ServingStatus::NotServing),
            ] {
                bench.fake.set_phase(phase);
                for service in ["", "KVStore", "ringcore.v1.KV"] {
                    let answer = health.check(about(service)).await.unwrap().into_inner();
                    assert_eq!(status(answer), expected, "{service}");
                }
            }
            assert_eq!(health.check(about("nobody")).await.unwrap_err().code(), Code::NotFound);
        }
    });
}

#[test]
fn watcher_hears_of_changes_and_of_the_end() {
    run(async |bench| {
        let mut health = HealthClient::new(bench.channel(Port::Client).await);
        let mut watch = health.watch(about("")).await.unwrap().into_inner();
        assert_eq!(status(watch.next().await.unwrap().unwrap()), ServingStatus::Serving);
        bench.fake.advance(5_000).await;
        assert!(still_pending(&mut watch.next()).await, "nothing has changed");
        bench.fake.set_phase(Phase::Starting);
        bench.fake.advance(1_000).await;
        assert_eq!(status(watch.next().await.unwrap().unwrap()), ServingStatus::NotServing);
        bench.fake.set_phase(Phase::Serving);
        bench.fake.advance(1_000).await;
        assert_eq!(status(watch.next().await.unwrap().unwrap()), ServingStatus::Serving);
        bench.server.stop();
        assert_eq!(status(watch.next().await.unwrap().unwrap()), ServingStatus::NotServing);
        let end = watch.next().await.unwrap().unwrap_err();
        assert_eq!((end.code(), reason(&end)), (Code::Unavailable, v1::Reason::Stopping));
    });
}

#[test]
fn watcher_of_an_unknown_service_is_told_so_and_kept() {
    run(async |bench| {
        let mut health = HealthClient::new(bench.channel(Port::Client).await);
        let mut watch = health.watch(about("nobody")).await.unwrap().into_inner();
        assert_eq!(status(watch.next().await.unwrap().unwrap()), ServingStatus::ServiceUnknown);
        assert!(still_pending(&mut watch.next()).await);
    });
}

async fn reflect(bench: &Bench, port: Port, question: MessageRequest) -> MessageResponse {
    let channel = bench.channel(port).await;
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let request =
        reflection::ServerReflectionRequest { host: "h".into(), message_request: Some(question.clone()) };
    let mut answers =
        client.server_reflection_info(stream::iter([request.clone()])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap();
    assert_eq!(answer.original_request, Some(request));
    assert!(answers.next().await.is_none());
    answer.message_response.expect("an answer")
}

#[test]
fn reflection_lists_the_ports_services() {
    run(async |bench| {
        let list = async |port| match reflect(&bench, port, MessageRequest::ListServices("".into())).await {
            MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        let clients = list(Port::Client).await;
        let peers = list(Port::Peer).await;
        assert!(clients.contains(&"KVStore".to_owned()) && clients.contains(&"ringcore.v1.KV".to_owned()));
        assert!(!peers.contains(&"ringcore.v1.KV".to_owned()) && peers.contains(&"NodeInternal".to_owned()));
        let links = "ringcore.peer.v1.Peer".to_owned();
        assert!(!clients.contains(&links) && peers.contains(&links));
    });
}

#[test]
fn reflection_answers_what_it_does_not_know() {
    run(async |bench| {
        for question in [
            MessageRequest::FileByFilename("nothing.proto".into()),
            MessageRequest::FileContainingSymbol("Nothing".into()),
            MessageRequest::AllExtensionNumbersOfType("Nothing".into()),
        ] {
            match reflect(&bench, Port::Client, question).await {
                MessageResponse::ErrorResponse(error) => assert_eq!(error.error_code, Code::NotFound as i32),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn reflection_of_the_old_name_speaks_the_same_messages() {
    run(async |bench| {
        use tonic_reflection::pb::v1alpha as old;
        let channel = bench.channel(Port::Client).await;
        let mut client = old::server_reflection_client::ServerReflectionClient::new(channel);
        let question = old::server_reflection_request::MessageRequest::FileContainingSymbol("KVStore".into());
        let request = old::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let mut answers = client.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
        match answers.next().await.unwrap().unwrap().message_response {
            Some(old::server_reflection_response::MessageResponse::FileDescriptorResponse(files)) => {
                assert_eq!(files.file_descriptor_proto.len(), 1);
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn ring_is_told_whole_or_not_at_all() {
    run(async |bench| {
        let mut client = v1::cluster_client::ClusterClient::new(bench.channel(Port::Client).await);
        let all = v1::GetRingRequest { include_slots: true, include_tokens: true, known_ring: 0 };
        let ring = client.get_ring(all).await.unwrap().into_inner();
        assert_eq!((ring.epoch, ring.replication_target, ring.replication, ring.quorum), (4, 3, 1, 1));
        assert_eq!((ring.slot_replicas.len(), ring.slot_bits), (SLOTS * 2, 14));
        let member = &ring.members[0];
        assert_eq!((member.name.as_str(), member.slots), ("n1", SLOTS as u32));
        assert_eq!(member.tokens, [1, 2]);
        assert_eq!((member.state(), member.liveness()), (v1::MemberState::Normal, v1::Liveness::Alive));
        let known = v1::GetRingRequest { known_ring: ring.ring, include_slots: true, ..Default::default() };
        let same = client.get_ring(known).await.unwrap().into_inner();
        assert_eq!(same, v1::GetRingResponse { ring: ring.ring, ..Default::default() });
        let bare = client.get_ring(v1::GetRingRequest::default()).await.unwrap().into_inner();
        assert!(bare.slot_replicas.is_empty() && bare.members[0].tokens.is_empty());
    });
}

#[test]
fn locate_names_token_slot_and_core() {
    run(async |bench| {
        let mut client = v1::cluster_client::ClusterClient::new(bench.channel(Port::Client).await);
        let place = client.locate(v1::LocateRequest { key: "k".into() }).await.unwrap().into_inner();
        let token = Token::of(b"k");
        assert_eq!((place.token, place.slot, place.epoch), (token.0, u32::from(token.slot().0), 4));
        assert_eq!(place.replicas[0].name, "n1");
        assert_eq!(place.replicas[0].core, u32::from(token.slot().core(2).0));
        let status = client.locate(v1::LocateRequest::default()).await.unwrap_err();
        assert_eq!(reason(&status), v1::Reason::KeyEmpty);
    });
}

#[test]
fn status_tells_counters_and_problems() {
    run(async |bench| {
        let mut client = v1::cluster_client::ClusterClient::new(bench.channel(Port::Client).await);
        let status = client.get_status(v1::GetStatusRequest { all_nodes: true }).await.unwrap().into_inner();
        assert!(status.healthy && status.problems.is_empty() && status.silent.is_empty());
        let node = &status.nodes[0];
        assert_eq!((node.records, node.uptime_ms, node.cores.len()), (14, 5_000, 2));
        assert_eq!(node.cores[0].connections, 1);
        bench.fake.set_phase(Phase::Starting);
        let status = client.get_status(v1::GetStatusRequest::default()).await.unwrap().into_inner();
        assert!(!status.healthy && !status.nodes[0].ready && !status.problems.is_empty());
    });
}

#[test]
fn configuration_tells_where_each_value_came_from() {
    run(async |bench| {
        let mut client = v1::admin_client::AdminClient::new(bench.channel(Port::Client).await);
        let config = client.get_config(v1::GetConfigRequest {}).await.unwrap().into_inner();
        let setting = &config.settings[0];
        assert_eq!(
            (setting.key.as_str(), setting.value.as_str(), setting.origin.as_str()),
            ("cores", "2", "flag")
        );
        let status = client.list_snapshots(v1::ListSnapshotsRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    });
}
