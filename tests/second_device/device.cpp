// A CUDA device for machines that have none: its memory is the host's, its kernels are the CPU's, its rules are CUDA's.
//
// Every kernel that torch has for the CPU or for CUDA is registered anew for the CUDA key. The new kernel checks where
// the arguments live as CUDA's own do, shows their memory to the CPU kernel, and gives the result the device back.
// Tensors are "cuda" tensors for autograd, autocast, gradient scalers, indexing and everything in Python.
//
// It cannot show what CUDA's own kernels do (numbers, missing types, memory, speed), nor Triton, NCCL or streams.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <unordered_set>

namespace {
using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::IValue;
using c10::Storage;
using c10::Stream;

constexpr auto CUDA = c10::DeviceType::CUDA;
thread_local DeviceIndex current = 0;

DeviceIndex count() {
  const char* said = std::getenv("SECOND_DEVICES");
  return said ? std::atoi(said) : 1;
}

// ---- device, memory, random numbers

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return CUDA; }
  Device getDevice() const override { return {CUDA, current}; }
  void uncheckedSetDevice(Device to) const noexcept override { current = to.has_index() ? to.index() : 0; }
  void setDevice(Device to) const override { uncheckedSetDevice(to); }
  Device exchangeDevice(Device to) const override {
    Device before = getDevice();
    setDevice(to);
    return before;
  }
  Stream getStream(Device at) const override { return Stream(Stream::DEFAULT, at); }
  Stream getDefaultStream(Device at) const override { return getStream(at); }
  Stream getNewStream(Device at, int) const override { return getStream(at); }
  Stream getStreamFromGlobalPool(Device at, bool) const override { return getStream(at); }
  Stream exchangeStream(Stream to) const override { return getStream(to.device()); }
  DeviceIndex deviceCount() const noexcept override { return count(); }
  // Work is finished when a kernel returns: nothing to wait for.
  void record(void**, const Stream&, DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}
};

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = size ? std::aligned_alloc(64, (size + 63) / 64 * 64) : nullptr;
    TORCH_CHECK(data || !size, "The second device has no memory left for ", size, " bytes.");
    return {data, data, &std::free, Device(CUDA, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t size) const override { default_copy_data(to, from, size); }
};
Memory memory;

// A generator of the device; the CPU kernels draw from the one inside.
struct DeviceGenerator final : c10::GeneratorImpl {
  at::Generator inner;
  explicit DeviceGenerator(DeviceIndex index, at::Generator inside = at::detail::createCPUGenerator())
      : GeneratorImpl(Device(CUDA, index < 0 ? current : index), c10::DispatchKeySet(c10::DispatchKey::CUDA)),
        inner(std::move(inside)) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { inner.set_offset(offset); }
  uint64_t get_offset() const override { return inner.get_offset(); }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }
  DeviceGenerator* clone_impl() const override { return new DeviceGenerator(device().index(), inner.clone()); }
};

const at::Generator& default_generator(DeviceIndex index) {
  static std::vector<at::Generator> all = [] {
    std::vector<at::Generator> made;
    for (DeviceIndex i = 0; i < count(); i++) made.push_back(at::make_generator<DeviceGenerator>(i));
    return made;
  }();
  return all.at(index < 0 ? current : index);
}

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return count(); }
  int getNumGPUs() const override { return count(); }
  DeviceIndex current_device() const override { return current; }
  DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(DeviceIndex to) const override { current = to; }
  DeviceIndex exchangeDevice(DeviceIndex to) const override { return std::exchange(current, to); }
  DeviceIndex maybeExchangeDevice(DeviceIndex to) const override { return exchangeDevice(to); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  c10::Allocator* getCUDADeviceAllocator() const override { return &memory; }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override { return default_generator(index); }
  at::Generator getNewGenerator(DeviceIndex index) const override { return at::make_generator<DeviceGenerator>(index); }
  void deviceSynchronize(DeviceIndex) const override {}
};

// ---- the same memory seen from the other side

Storage seen_from(const Storage& storage, Device device) {
  auto release = [](void* held) { delete static_cast<Storage*>(held); };
  c10::DataPtr data(storage.mutable_data(), new Storage(storage), release, device);
  c10::Allocator* owner = device.is_cuda() ? static_cast<c10::Allocator*>(&memory) : c10::GetCPUAllocator();
  return Storage(Storage::use_byte_size_t(), storage.nbytes(), std::move(data), owner, /*resizable=*/true);
}

Tensor seen_from(const Tensor& tensor, Device device) {
  auto key = device.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
  auto seen = at::detail::make_tensor<c10::TensorImpl>(
      seen_from(tensor.storage(), device), c10::DispatchKeySet(key), tensor.dtype());
  auto* impl = seen.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  impl->set_storage_offset(tensor.storage_offset());
  if (tensor.dim() == 0) impl->set_wrapped_number(tensor.unsafeGetTensorImpl()->is_wrapped_number());
  seen._set_conj(tensor.is_conj());
  seen._set_neg(tensor.is_neg());
  return seen;
}

// ---- one kernel for all

bool moves_between_devices(const std::string& name) {
  return name == "aten::copy_" || name == "aten::_copy_from" || name == "aten::_copy_from_and_resize";
}

// Where CUDA takes an argument from the host: indices of any size, and single numbers where an operator is pointwise
// (not all that are have torch's tag; their second operand is called other).
bool host_is_fine(const c10::OperatorHandle& op, const c10::Argument& argument, const Tensor& value) {
  static const std::unordered_set<std::string> indexing = {
      "aten::index", "aten::_unsafe_index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_",
      "aten::_unsafe_index_put"};
  static const std::unordered_set<std::string> filling = {
      "aten::fill_", "aten::fill", "aten::masked_fill", "aten::masked_fill_", "aten::_local_scalar_dense"};
  const auto& name = op.schema().name();
  const bool written = argument.alias_info() && argument.alias_info()->isWrite();
  if (indexing.count(name)) return argument.name() == "indices" || (argument.name() == "values" && value.dim() == 0);
  if (value.dim() != 0 || written) return false;
  if (argument.name() == "other" || name.rfind("aten::_foreach_", 0) == 0) return true;
  return op.hasTag(at::Tag::pointwise) || filling.count(name);
}

class Call {
 public:
  Call(const c10::OperatorHandle& op, torch::jit::Stack* stack)
      : op_(op), schema_(op.schema()), stack_(*stack), first_(stack->size() - schema_.arguments().size()) {}

  void run() {
    for (size_t i = 0; i < schema_.arguments().size(); i++) take(schema_.arguments()[i], stack_[first_ + i]);
    refuse_host();
    if (!device_) device_ = Device(CUDA, current);
    auto narrowed = widen_softmax();
    {
      c10::impl::ExcludeDispatchKeyGuard below(
          c10::autograd_dispatch_keyset | c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView));
      op_.callBoxed(&stack_);
    }
    for (auto& shown : shown_) if (shown.written) give_back(shown);
    const auto first = stack_.size() - schema_.returns().size();
    for (size_t i = first; i < stack_.size(); i++) {
      auto& value = stack_[i];
      if (value.isTensor()) {
        auto result = value.toTensor();
        value = on_device(narrowed ? result.to(*narrowed) : result);
      } else if (value.isTensorList()) {
        c10::List<Tensor> list;
        for (const auto& tensor : value.toTensorVector()) list.push_back(on_device(tensor));
        value = list;
      }
    }
  }

 private:
  struct Shown {
    Tensor original, seen;
    bool written;
  };

  void take(const c10::Argument& argument, IValue& value) {
    if (value.isTensor()) {
      value = on_host(argument, value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const auto& tensor : value.toTensorVector()) list.push_back(on_host(argument, tensor));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (std::optional<Tensor> tensor : value.toOptionalTensorList()) {
        if (tensor) tensor = on_host(argument, *tensor);
        list.push_back(tensor);
      }
      value = list;
    } else if (value.isDevice() && value.toDevice().is_cuda()) {
      device_ = Device(CUDA, value.toDevice().has_index() ? value.toDevice().index() : current);
      value = Device(c10::DeviceType::CPU);
    } else if (value.isGenerator() && value.toGenerator().defined()) {
      auto generator = value.toGenerator();
      TORCH_CHECK(generator.device().is_cuda(), "Expected a 'cuda' device type for generator but found '",
                  generator.device().type(), "' (", schema_.name(), ")");
      value = generator.get<DeviceGenerator>()->inner;
      device_ = generator.device();
    } else if (argument.name() == "pin_memory") {
      value = IValue();
    }
  }

  Tensor on_host(const c10::Argument& argument, const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!tensor.is_cuda()) {
      host_.emplace_back(&argument, tensor);
      return tensor;
    }
    TORCH_CHECK(!device_ || *device_ == tensor.device() || moves_between_devices(schema_.name()),
                "Expected all tensors to be on the same device, but found at least two devices, ", *device_, " and ",
                tensor.device(), "! (", schema_.name(), ")");
    device_ = tensor.device();
    const bool written = argument.alias_info() && argument.alias_info()->isWrite();
    for (auto& shown : shown_) {
      if (!shown.original.is_same(tensor)) continue;
      shown.written |= written;
      return shown.seen;
    }
    shown_.push_back({tensor, seen_from(tensor, c10::DeviceType::CPU), written});
    return shown_.back().seen;
  }

  void refuse_host() const {
    if (!device_ || moves_between_devices(schema_.name())) return;
    for (const auto& [argument, tensor] : host_)
      TORCH_CHECK(host_is_fine(op_, *argument, tensor),
                  "Expected all tensors to be on the same device, but found at least two devices, ", *device_,
                  " and cpu! (", schema_.name(), ", argument ", argument->name(), " of shape ", tensor.sizes(), ")");
  }

  // Softmax from half precision to float is CUDA's alone: the CPU does it on a wider input, or narrows its gradient.
  std::optional<at::ScalarType> widen_softmax() {
    const auto& name = schema_.name();
    if ((name == "aten::_softmax" || name == "aten::_log_softmax") && stack_[first_ + 2].toBool()) {
      stack_[first_] = stack_[first_].toTensor().to(at::kFloat);
      stack_[first_ + 2] = false;
    } else if (name == "aten::_softmax_backward_data" || name == "aten::_log_softmax_backward_data") {
      const auto wanted = static_cast<at::ScalarType>(stack_[first_ + 3].toInt());
      const auto given = stack_[first_].toTensor().scalar_type();
      if (wanted != given) {
        stack_[first_ + 3] = static_cast<int64_t>(given);
        return wanted;
      }
    }
    return std::nullopt;
  }

  // A kernel that wrote may have resized its argument, and then have moved its memory.
  void give_back(Shown& shown) const {
    auto mine = shown.original.storage(), theirs = shown.seen.storage();
    if (mine.data() != theirs.data() || mine.nbytes() != theirs.nbytes()) {
      auto moved = seen_from(theirs, shown.original.device());
      mine.set_nbytes(moved.nbytes());
      mine.set_data_ptr_noswap(std::move(moved.mutable_data_ptr()));
    }
    auto* impl = shown.original.unsafeGetTensorImpl();
    if (shown.original.sizes() != shown.seen.sizes() || shown.original.strides() != shown.seen.strides()) {
      impl->set_sizes_and_strides(shown.seen.sizes(), shown.seen.strides());
      impl->set_storage_offset(shown.seen.storage_offset());
    }
  }

  Tensor on_device(const Tensor& result) const {
    if (!result.defined() || !result.is_cpu()) return result;
    for (const auto& shown : shown_) if (shown.seen.is_same(result)) return shown.original;
    for (const auto& [argument, tensor] : host_) if (tensor.is_same(result)) return result;
    return seen_from(result, *device_);
  }

  const c10::OperatorHandle& op_;
  const c10::FunctionSchema& schema_;
  torch::jit::Stack& stack_;
  const size_t first_;
  std::optional<Device> device_;
  std::vector<Shown> shown_;
  std::vector<std::pair<const c10::Argument*, Tensor>> host_;
};

void on_second_device(const c10::OperatorHandle& op, torch::jit::Stack* stack) { Call(op, stack).run(); }

// ---- what cannot go through the CPU's kernels

Device placed(std::optional<Device> device) {
  return Device(CUDA, device && device->has_index() ? device->index() : current);
}

Tensor empty(at::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(placed(device));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   dtype.value_or(at::get_default_dtype_as_scalartype()), format);
}

Tensor empty_strided(at::SymIntArrayRef size, at::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(placed(device));
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory,
      c10::DispatchKeySet(c10::DispatchKey::CUDA), dtype.value_or(at::get_default_dtype_as_scalartype()));
}

Tensor& set_storage(Tensor& self, Storage source, at::SymInt offset, at::SymIntArrayRef size, at::SymIntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  if (stride.empty()) impl->set_sizes_contiguous(sizes);
  else impl->set_sizes_and_strides(sizes, C10_AS_INTARRAYREF_SLOW(stride));
  impl->set_storage_offset(offset.expect_int());
  return self;
}

// CUDA's own choice of a kernel asks the driver; the plain formula is every kernel's reference.
Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask,
                 double dropout, bool causal, std::optional<double> scale, bool grouped) {
  TORCH_CHECK(query.dtype() == key.dtype() && query.dtype() == value.dtype(),
              "Expected query, key, and value to have the same dtype, but got ", query.dtype(), ", ", key.dtype(),
              " and ", value.dtype());
  std::optional<Tensor> added = mask;
  if (mask && mask->scalar_type() == at::kBool)
    added = at::zeros_like(*mask, mask->options().dtype(query.dtype())).masked_fill_(mask->logical_not(), -INFINITY);
  TORCH_CHECK(!added || added->dtype() == query.dtype(), "Expected attn_mask dtype to be bool or ", query.dtype());
  return std::get<0>(at::_scaled_dot_product_attention_math(query, key, value, added, dropout, causal, std::nullopt,
                                                            scale, grouped));
}

// Products of half matrices in float are CUDA's alone.
Tensor wide_mm(const Tensor& a, const Tensor& b, at::ScalarType kind) { return a.to(kind).mm(b.to(kind)); }

Tensor wide_addmm(const Tensor& added, const Tensor& a, const Tensor& b, at::ScalarType kind, const at::Scalar& beta,
             const at::Scalar& alpha) {
  return added.to(kind).addmm(a.to(kind), b.to(kind), beta, alpha);
}

Tensor& mm_out(const Tensor& a, const Tensor& b, at::ScalarType kind, Tensor& out) { return out.copy_(wide_mm(a, b, kind)); }

Tensor& addmm_out(const Tensor& added, const Tensor& a, const Tensor& b, at::ScalarType kind, const at::Scalar& beta,
                  const at::Scalar& alpha, Tensor& out) {
  return out.copy_(wide_addmm(added, a, b, kind, beta, alpha));
}

bool gives_views(const c10::FunctionSchema& schema) {
  for (const auto& result : schema.returns())
    if (result.alias_info() && !result.alias_info()->isWrite()) return true;
  return false;
}

std::vector<std::unique_ptr<torch::Library>> libraries;

torch::Library& library(c10::DispatchKey key) {
  libraries.push_back(
      std::make_unique<torch::Library>(torch::Library::IMPL, "aten", std::optional(key), __FILE__, __LINE__));
  return *libraries.back();
}

int64_t install() {
  auto& hooks = at::globalContext().getAcceleratorHooksInterface(CUDA);
  TORCH_CHECK(dynamic_cast<const Hooks*>(&hooks), "torch asked for CUDA before the second device was loaded.");
  static Guard guard;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(CUDA)].store(&guard);
  c10::SetAllocator(CUDA, &memory, /*priority=*/255);

  auto& dispatcher = c10::Dispatcher::singleton();
  // Three that torch has for all devices, and whose insides would ask CUDA.
  std::unordered_set<c10::OperatorName> names = {
      {"aten::copy_", ""}, {"aten::convolution", ""}, {"aten::convolution_backward", ""}};
  for (auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA})
    for (const auto& name : dispatcher.getRegistrationsForDispatchKey(key)) names.insert(name);
  auto& kernels = library(c10::DispatchKey::CUDA);
  int64_t registered = 0;
  for (const auto& name : names) {
    static const std::unordered_set<std::string> own = {"aten::empty", "aten::empty_strided", "aten::set_"};
    const auto op = dispatcher.findSchema(name);
    if (name.name.rfind("aten::", 0) != 0 || !op || own.count(name.name) || gives_views(op->schema())) continue;
    if (name.overload_name.rfind("dtype", 0) == 0) continue;
    const auto full = name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
    kernels.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&on_second_device>());
    registered++;
  }
  kernels.impl("empty.memory_format", TORCH_FN(empty));
  kernels.impl("empty_strided", TORCH_FN(empty_strided));
  kernels.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage));
  kernels.impl("scaled_dot_product_attention", TORCH_FN(attention));
  kernels.impl("mm.dtype", TORCH_FN(wide_mm));
  kernels.impl("mm.dtype_out", TORCH_FN(mm_out));
  kernels.impl("addmm.dtype", TORCH_FN(wide_addmm));
  kernels.impl("addmm.dtype_out", TORCH_FN(addmm_out));
  library(c10::DispatchKey::AutogradCUDA).impl("scaled_dot_product_attention", TORCH_FN(attention));
  return registered;
}

bool registered_before_torch_asks = [] {
  at::CUDAHooksRegistry()->Register(
      "CUDAHooks", [](at::CUDAHooksArgs arguments) { return std::make_unique<Hooks>(arguments); },
      c10::REGISTRY_PREFERRED);
  return true;
}();
}  // namespace

TORCH_LIBRARY(second_device, library) {
  library.def("install() -> int", install);
  library.def("current() -> int", [] { return static_cast<int64_t>(current); });
  library.def("set_current(int index) -> ()", [](int64_t index) { current = static_cast<DeviceIndex>(index); });
  library.def("default_generator(int index) -> Generator?", [](int64_t index) { return default_generator(index); });
}
