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
}

const fn bounded(name: &'static str, needs: Needs) -> Call {
    Call { name, needs, is_bounded: true }
}

const fn unbounded(name: &'static str, needs: Needs) -> Call {
    Call { name, needs, is_bounded: false }
}

pub const CALLS: &[Call] = &[
    bounded("asof.v1.FeatureStore/GetOnlineFeatures", Needs::Reader),
    bounded("asof.v1.FeatureStore/GetBatchFeatures", Needs::Reader),
    bounded("asof.v1.FeatureStore/Push", Needs::Writer),
    bounded("asof.v1.FeatureStore/ListDefinitions", Needs::Reader),
    bounded("asof.v1.FeatureStore/GetStatus", Needs::Reader),
    unbounded("asof.v1.Admin/SyncOnlineStore", Needs::Admin),
    unbounded("asof.v1.Admin/FlushStreams", Needs::Admin),
    unbounded("asof.v1.Admin/RebuildOnline", Needs::Admin),
    unbounded("grpc.health.v1.Health/Check", Needs::Nothing),
    unbounded("grpc.health.v1.Health/List", Needs::Nothing),
    unbounded("grpc.health.v1.Health/Watch", Needs::Nothing),
    unbounded("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Needs::Reader),
    unbounded("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Needs::Reader),
    bounded("POST /v1/get-online-features", Needs::Reader),
    bounded("POST /v1/push", Needs::Writer),
    unbounded("GET /health", Needs::Nothing),
    unbounded("GET /metrics", Needs::Reader),
];

/// The call of this name.
pub fn call(name: &str) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.name == name)
}
