//! `asof_floor_micros(nanoseconds)`: an instant cut to the microsecond below, also before 1970.
//!
//! Arrow's own cast rounds towards zero, which moves instants before 1970 up.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampNanosecondType};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FloorTimestamp {
    signature: Signature,
}

impl FloorTimestamp {
    pub(super) fn udf() -> ScalarUDF {
        ScalarUDF::new_from_impl(FloorTimestamp {
            signature: Signature::new(TypeSignature::Any(1), Volatility::Immutable),
        })
    }
}

impl ScalarUDFImpl for FloorTimestamp {
    fn name(&self) -> &str {
        "asof_floor_micros"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let array = args.args[0].to_array(args.number_rows)?;
        match array.data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => Ok(ColumnarValue::Array(floor_micros(&array))),
            other => exec_err!("asof_floor_micros takes nanoseconds, not {other}"),
        }
    }
}

/// Nanoseconds to microseconds UTC, rounded down.
pub(super) fn floor_micros(nanos: &dyn Array) -> ArrayRef {
    let nanos = nanos.as_primitive::<TimestampNanosecondType>();
    let micros: TimestampMicrosecondArray = nanos.unary(|nanos| nanos.div_euclid(1000));
    Arc::new(micros.with_timezone("UTC"))
}
