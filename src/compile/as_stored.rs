//! `asof_as_stored(float)`: its argument, read from the rows.
//!
//! Files are skipped by their least and greatest values, which leave NaN out, although NaN is greater than every
//! number. A filter on this function's result cannot be held against them.

use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct AsStored {
    signature: Signature,
}

impl AsStored {
    pub(super) fn udf() -> ScalarUDF {
        ScalarUDF::new_from_impl(AsStored { signature: Signature::new(TypeSignature::Any(1), Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for AsStored {
    fn name(&self) -> &str {
        "asof_as_stored"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [argument] => Ok(argument.clone()),
            others => exec_err!("asof_as_stored takes one argument, not {}", others.len()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(args.args[0].clone())
    }
}
