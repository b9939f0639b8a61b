//! `ringcore.v1.Admin`, as far as it is served.

use super::backend::Backend;
use super::call::{Call, Refusal};
use super::proto::v1;

pub(crate) async fn config<B: Backend>(
    call: &Call<B>,
    _: v1::GetConfigRequest,
) -> Result<v1::GetConfigResponse, Refusal> {
    let settings = call.server.backend.settings().into_iter().map(|setting| {
        v1::get_config_response::Setting { key: setting.key, value: setting.value, origin: setting.origin }
    });
    Ok(v1::GetConfigResponse { settings: settings.collect() })
}
