//! The peer: Wasmtime in this process, as a host that trusts one wall would use it.

use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, InstancePre, Linker, Module, PoolingAllocationConfig, Store,
};

use crate::{Failure, Runner};

/// A compiled module, linked, with a pooling allocator: what its documentation recommends for fast instantiation.
pub struct InProcess {
    engine: Engine,
    module: InstancePre<()>,
}

impl InProcess {
    /// Compiles and links the module, which may import nothing.
    pub fn new(wasm: &[u8]) -> Result<Self, Failure> {
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(PoolingAllocationConfig::default()));
        let engine = Engine::new(&config).map_err(|e| e.to_string())?;
        let module = Module::new(&engine, wasm).map_err(|e| e.to_string())?;
        let module = Linker::new(&engine).instantiate_pre(&module).map_err(|e| e.to_string())?;
        Ok(Self { engine, module })
    }
}

impl Runner for InProcess {
    async fn run_one(&mut self) -> Result<(), Failure> {
        let mut store = Store::new(&self.engine, ());
        let instance = self.module.instantiate(&mut store).map_err(|e| e.to_string())?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(|e| e.to_string())?;
        Ok(start.call(&mut store, ()).map_err(|e| e.to_string())?)
    }
}
