//! `grpc.health.v1.Health/Check`: does a node serve? Two messages of two small fields, written out here so that the
//! client needs no server's crate.

use super::{Client, ClientError};
use tonic::Status;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    /// Empty = the whole node.
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// HealthCheckResponse.ServingStatus.SERVING.
const SERVING: i32 = 1;

impl Client {
    /// Does the node serve: has it recovered, and takes it part in quorums? Anything else that it answers is false; no
    /// answer is an error.
    pub async fn health(&self) -> Result<bool, ClientError> {
        let answered = self.call(self.reading(), |attempt| async move {
            let request = attempt.request(HealthCheckRequest::default());
            let mut grpc = Grpc::new(attempt.channel);
            grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
            let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
            let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
            grpc.unary(request, path, codec).await
        });
        Ok(answered.await?.message.status == SERVING)
    }
}
