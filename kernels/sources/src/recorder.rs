//! A device that runs nothing: it compiles every kernel that is launched on it to the language of another device, and keeps
//! the text.

use std::sync::{Arc, Mutex};

use cubecl::bytes::Bytes;
use cubecl::client::Client;
use cubecl::future::DynFut;
use cubecl::ir::{
    AddressType, DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties, IntKind,
    MemoryDeviceProperties, TargetProperties, UIntKind, features,
};
use cubecl::profile::{ProfileDuration, TimingMethod};
use cubecl::server::{
    BufferBinding, CopyDescriptor, CubeCount, KernelArguments, ProfileError, ProfilingToken, Server,
    ServerCommunication, ServerError, ServerStorage, ServerUtilities,
};
use cubecl::{Compiler, CubeKernel, MemoryAllocationMode, define_kernel, dry_run::LaunchMode};
use cubecl_common::device::{DeviceId, DeviceService, ServerUtilitiesHandle, ServiceId};
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::CudaCmmaCompiler;
use cubecl_cpp::metal::{arch::MetalArchitecture, supported_cmma_combinations_metal};
use cubecl_cpp::shared::{
    CompilationOptions, CppCompiler, CppSupportedFeatures, register_supported_types, register_wmma_features,
};
use cubecl_cpp::target::{Cuda, Metal};
use cubecl_environment::backtrace::BackTrace;
use cubecl_environment::stream::StreamId;
use cubecl_server::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_server::logging::ServerLogger;
use cubecl_server::memory_management::{ManagedMemoryHandle, StreamMemoryReport};
use cubecl_server::storage::{BytesResource, BytesStorage, ManagedResource};

/// The language of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// CUDA C++ for this compute capability.
    Cuda(u32),
    /// Apple's.
    Metal,
}

/// The text of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The name of the function.
    pub kernel: String,
    /// Its text, or why there is none.
    pub text: Result<String, String>,
}

type Sources = Arc<Mutex<Vec<Source>>>;

/// The device behind a [`Client`].
#[derive(Debug)]
struct Recorder {
    utilities: Arc<ServerUtilities>,
    language: Language,
    sources: Sources,
}

/// A client of a new device, the `index`th of this process, and the sources of what is launched there.
pub fn recorder(index: u16, language: Language) -> (Client, Sources) {
    let device = DeviceId { type_id: 0, index_id: index };
    let (name, properties) = match language {
        Language::Cuda(version) => ("cuda", cuda(version)),
        Language::Metal => ("wgpu<msl>", metal()),
    };
    let (utilities, _) = ServerUtilities::init(
        ServiceId::of::<Recorder>(device),
        name,
        properties,
        TargetProperties::default(),
        Arc::new(ServerLogger::default()),
        ContiguousMemoryLayoutPolicy::new(16),
    );
    let sources = Sources::default();
    let server = Recorder { utilities: Arc::new(utilities), language, sources: sources.clone() };
    (Client::init(device, server), sources)
}

fn hardware(max_shared_memory_size: usize, max_vector_size: usize) -> HardwareProperties {
    HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 30,
        max_shared_memory_size,
        max_cube_count: (i32::MAX as u32, u16::MAX.into(), u16::MAX.into()),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(100),
        num_tensor_cores: None,
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size,
        cube_mma_reserved_shared_memory: 0,
    }
}

fn properties(name: &str, hardware: HardwareProperties) -> DeviceProperties {
    let memory = MemoryDeviceProperties::new(1 << 34, 512);
    let identity = DeviceIdentity { name: name.to_string(), fingerprint: name.to_string(), physical: None };
    let mut properties =
        DeviceProperties::new(features::Features::default(), memory, hardware, TimingMethod::System, identity);
    properties.features.plane.insert(features::Plane::Ops);
    properties.features.plane.insert(features::Plane::Sync);
    properties.features.plane.insert(features::Plane::NonUniformControlFlow);
    properties.features.alignment = true;
    properties
}

/// As CubeCL's CUDA runtime says of such a device.
fn cuda(version: u32) -> DeviceProperties {
    let mut properties = properties(&format!("sm_{version}"), hardware(160 << 10, usize::MAX));
    register_supported_types(&mut properties);
    let arch = CudaArchitecture { version, tensor_cores: true };
    register_wmma_features(CudaCmmaCompiler::Cpp.supported_cmma_combinations(&arch), &mut properties);
    properties.features.memory_reinterpret = true;
    properties
}

/// As CubeCL says of a device of Metal 3.
fn metal() -> DeviceProperties {
    let mut properties = properties("metal", hardware(32 << 10, 4));
    properties.register_address_type(AddressType::U32);
    let types = [
        ElemType::Index,
        ElemType::UInt(UIntKind::U8),
        ElemType::UInt(UIntKind::U16),
        ElemType::UInt(UIntKind::U32),
        ElemType::Int(IntKind::I8),
        ElemType::Int(IntKind::I16),
        ElemType::Int(IntKind::I32),
        ElemType::Float(FloatKind::F16),
        ElemType::Float(FloatKind::BF16),
        ElemType::Float(FloatKind::F32),
        ElemType::Bool,
    ];
    for kind in types {
        properties.register_type_usage(kind, features::TypeUsage::all());
    }
    register_wmma_features(supported_cmma_combinations_metal(&MetalArchitecture::Metal3), &mut properties);
    properties
}

impl Recorder {
    fn compile(&self, kernel: &dyn CubeKernel) -> Result<String, String> {
        let definition = define_kernel(kernel).map_err(|error| error.to_string())?;
        let supports_features = CppSupportedFeatures { fast_math: true, dp4a: true, ..Default::default() };
        let options = CompilationOptions { supports_features, ..Default::default() };
        let compiled = match self.language {
            Language::Cuda(version) => {
                let supports_features = CppSupportedFeatures {
                    grid_constants: true,
                    clusters: version >= 90,
                    elect_sync: version >= 90,
                    ..supports_features
                };
                let options = CompilationOptions { supports_features, ..options };
                CppCompiler::<Cuda>::default().compile(definition, &options)
            }
            Language::Metal => CppCompiler::<Metal>::default().compile(definition, &options),
        };
        compiled.map(|compiled| compiled.to_string()).map_err(|error| error.to_string())
    }
}

impl DeviceService for Recorder {
    fn init(_: DeviceId) -> Self {
        unreachable!("a recorder is made with its language")
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl ServerCommunication for Recorder {}

impl Server for Recorder {
    fn initialize_memory(&mut self, _: ManagedMemoryHandle, _: u64, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities> {
        self.utilities.clone()
    }

    /// Zeros.
    fn read(&mut self, what: Vec<CopyDescriptor>, _: StreamId) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let bytes =
            |one: &CopyDescriptor| Bytes::from_bytes_vec(vec![0; one.shape.iter().product::<usize>() * one.elem_size]);
        let all = what.iter().map(bytes).collect();
        Box::pin(async move { Ok(all) })
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(&mut self, _: Vec<BufferBinding>, _: StreamId) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn check(&mut self, _: Vec<BufferBinding>, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    unsafe fn launch(
        &mut self,
        kernel: Box<dyn CubeKernel>,
        _: CubeCount,
        _: KernelArguments,
        _: StreamId,
        _: LaunchMode,
    ) {
        // `..::matvec::matvec::Matvec<..>`: the function is the module that the launch is in.
        let name = kernel.name().split('<').next().unwrap_or_default();
        let name = name.rsplit("::").nth(1).unwrap_or(name).to_string();
        let source = Source { kernel: name, text: self.compile(&*kernel) };
        let mut sources = self.sources.lock().expect("no test panics while it holds this");
        if !sources.contains(&source) {
            sources.push(source);
        }
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_report(&mut self, _: StreamId) -> Option<StreamMemoryReport> {
        None
    }

    fn memory_cleanup(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        Ok(ProfilingToken { id: 0 })
    }

    fn end_profile(&mut self, _: StreamId, _: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        Err(ProfileError::Unknown { reason: "nothing runs here".to_string(), backtrace: BackTrace::capture() })
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

impl ServerStorage for Recorder {
    type Storage = BytesStorage;

    fn get_resource(&mut self, _: BufferBinding, _: StreamId) -> Result<ManagedResource<BytesResource>, ServerError> {
        Err(ServerError::Generic { reason: "nothing is stored here".to_string(), backtrace: BackTrace::capture() })
    }
}
