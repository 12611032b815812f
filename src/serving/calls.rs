//! Every call that the server answers, and who may make it. What is not listed here, nobody but an admin may.

/// What a caller has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Anybody: probes and descriptions.
    Nothing,
    /// Gets features and lists.
    Reader,
    /// Pushes, too.
    Writer,
    /// Manages.
    Admin,
}

/// One call: `asof.v1.FeatureStore/Push`, or `POST /v1/push`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub name: &'static str,
    pub needs: Needs,
    /// Whether it is one of the requests that are bounded: what tells that the server lives is answered always.
    pub is_bounded: bool,
    /// Whether it is over within the time of a request; else it goes on as long as there is something to send.
    pub is_timed: bool,
}

/// A request with one answer.
const fn request(name: &'static str, needs: Needs) -> Call {
    Call { name, needs, is_bounded: true, is_timed: true }
}

/// Messages that come and go.
const fn stream(name: &'static str, needs: Needs) -> Call {
    Call { name, needs, is_bounded: true, is_timed: false }
}

/// What is answered always, and takes the time it takes.
const fn always(name: &'static str, needs: Needs) -> Call {
    Call { name, needs, is_bounded: false, is_timed: false }
}

pub const CALLS: &[Call] = &[
    request("asof.v1.FeatureStore/GetOnlineFeatures", Needs::Reader),
    stream("asof.v1.FeatureStore/GetBatchFeatures", Needs::Reader),
    stream("asof.v1.FeatureStore/Push", Needs::Writer),
    request("asof.v1.FeatureStore/ListDefinitions", Needs::Reader),
    request("asof.v1.FeatureStore/GetStatus", Needs::Reader),
    always("asof.v1.Admin/SyncOnlineStore", Needs::Admin),
    always("asof.v1.Admin/FlushStreams", Needs::Admin),
    always("asof.v1.Admin/RebuildOnline", Needs::Admin),
    always("asof.v1.Admin/Checkpoint", Needs::Admin),
    always("grpc.health.v1.Health/Check", Needs::Nothing),
    always("grpc.health.v1.Health/Watch", Needs::Nothing),
    always("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Needs::Reader),
    always("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Needs::Reader),
    request("POST /v1/get-online-features", Needs::Reader),
    request("POST /v1/push", Needs::Writer),
    request("POST /get-online-features", Needs::Reader),
    request("POST /push", Needs::Writer),
    always("GET /openapi.json", Needs::Reader),
    always("GET /health", Needs::Nothing),
    always("GET /ready", Needs::Nothing),
    always("GET /metrics", Needs::Reader),
];

/// The call of this name.
pub fn call(name: &str) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.name == name)
}
