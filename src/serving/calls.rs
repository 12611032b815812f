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
    /// Whether it takes a turn: then it is refused while the server has more to do than it can.
    pub takes_turn: bool,
    /// Whether it is over within the time of a request; else it goes on as long as there is something to send.
    pub is_timed: bool,
    /// Whether it is for callers that may use every view alone: what it answers is not told apart by view.
    pub is_of_all_views: bool,
}

/// A request with one answer.
const fn request(name: &'static str, needs: Needs) -> Call {
    Call { name, needs, is_bounded: true, takes_turn: false, is_timed: true, is_of_all_views: false }
}

/// A request for features or predictions.
const fn online(name: &'static str, needs: Needs) -> Call {
    Call { takes_turn: true, ..request(name, needs) }
}

/// Messages that come and go.
const fn stream(name: &'static str, needs: Needs) -> Call {
    Call { is_timed: false, ..request(name, needs) }
}

/// What is answered always, and takes the time it takes.
const fn always(name: &'static str, needs: Needs) -> Call {
    Call { is_bounded: false, ..stream(name, needs) }
}

/// Of predictions and their models, which may read any view, and of all that the server keeps.
const fn of_all_views(call: Call) -> Call {
    Call { is_of_all_views: true, ..call }
}

pub const CALLS: &[Call] = &[
    online("asof.v1.FeatureStore/GetOnlineFeatures", Needs::Reader),
    stream("asof.v1.FeatureStore/GetBatchFeatures", Needs::Reader),
    stream("asof.v1.FeatureStore/Push", Needs::Writer),
    request("asof.v1.FeatureStore/ListDefinitions", Needs::Reader),
    request("asof.v1.FeatureStore/GetStatus", Needs::Reader),
    always("asof.v1.Admin/SyncOnlineStore", Needs::Admin),
    of_all_views(always("asof.v1.Admin/FlushStreams", Needs::Admin)),
    always("asof.v1.Admin/RebuildOnline", Needs::Admin),
    of_all_views(always("asof.v1.Admin/SetWatermark", Needs::Admin)),
    of_all_views(always("asof.v1.Admin/NewEventTable", Needs::Admin)),
    of_all_views(always("asof.v1.Admin/Checkpoint", Needs::Admin)),
    of_all_views(online("asof.v1.Prediction/Predict", Needs::Writer)),
    of_all_views(stream("asof.v1.Prediction/BatchPredict", Needs::Reader)),
    of_all_views(stream("asof.v1.Prediction/RegisterModel", Needs::Admin)),
    of_all_views(request("asof.v1.Prediction/ListModels", Needs::Reader)),
    of_all_views(request("asof.v1.Prediction/SetModelAlias", Needs::Admin)),
    of_all_views(request("asof.v1.Prediction/RetireModel", Needs::Admin)),
    of_all_views(always("asof.v1.Prediction/FlushPredictions", Needs::Admin)),
    always("inference.GRPCInferenceService/ServerLive", Needs::Nothing),
    always("inference.GRPCInferenceService/ServerReady", Needs::Nothing),
    of_all_views(request("inference.GRPCInferenceService/ModelReady", Needs::Reader)),
    of_all_views(request("inference.GRPCInferenceService/ServerMetadata", Needs::Reader)),
    of_all_views(request("inference.GRPCInferenceService/ModelMetadata", Needs::Reader)),
    of_all_views(online("inference.GRPCInferenceService/ModelInfer", Needs::Writer)),
    always("grpc.health.v1.Health/Check", Needs::Nothing),
    always("grpc.health.v1.Health/Watch", Needs::Nothing),
    always("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Needs::Reader),
    always("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Needs::Reader),
    online("POST /v1/get-online-features", Needs::Reader),
    request("POST /v1/push", Needs::Writer),
    online("POST /get-online-features", Needs::Reader),
    request("POST /push", Needs::Writer),
    request("POST /write-to-online-store", Needs::Writer),
    of_all_views(online("POST /predict", Needs::Writer)),
    of_all_views(online("POST /invocations", Needs::Writer)),
    of_all_views(request("GET /v2", Needs::Reader)),
    always("GET /v2/health/live", Needs::Nothing),
    always("GET /v2/health/ready", Needs::Nothing),
    of_all_views(request("GET /v2/models/{name}", Needs::Reader)),
    of_all_views(request("GET /v2/models/{name}/ready", Needs::Reader)),
    of_all_views(online("POST /v2/models/{name}/infer", Needs::Writer)),
    of_all_views(request("GET /v2/models/{name}/versions/{version}", Needs::Reader)),
    of_all_views(request("GET /v2/models/{name}/versions/{version}/ready", Needs::Reader)),
    of_all_views(online("POST /v2/models/{name}/versions/{version}/infer", Needs::Writer)),
    always("GET /openapi.json", Needs::Reader),
    always("GET /health", Needs::Nothing),
    always("GET /ready", Needs::Nothing),
    always("GET /metrics", Needs::Reader),
];

/// The call of this name.
pub fn call(name: &str) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.name == name)
}
