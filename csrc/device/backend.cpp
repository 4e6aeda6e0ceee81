#include "device/backend.h"

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>

#include <mutex>
#include <unordered_map>

#include "device/allocator.h"
#include "device/fork.h"
#include "device/generator.h"
#include "device/graph.h"
#include "dispatch/registration.h"
#include "timeline/timeline.h"

namespace revati {
namespace {

thread_local int thread_device = 0;
c10::DeviceType the_type = c10::DeviceType::CPU;

int checked(int index) {
  if (index < 0) return thread_device;
  TORCH_CHECK(index < config().count, "CUDA error: invalid device ordinal: device ", index, " of ", config().count,
              " virtual GPU(s); ask for more with --gpus");
  return index;
}

// ------------------------------------------------------------------ guard
template <c10::DeviceType T>
struct Guard final : c10::impl::DeviceGuardImplInterface {
  static c10::Stream stream(int device, int64_t id) {
    return c10::Stream(c10::Stream::UNSAFE, c10::Device(T, c10::DeviceIndex(device)), id);
  }
  c10::DeviceType type() const override { return T; }
  c10::Device exchangeDevice(c10::Device d) const override {
    int old = thread_device;
    if (d.index() >= 0) thread_device = checked(d.index());
    return {T, c10::DeviceIndex(old)};
  }
  c10::Device getDevice() const override { return {T, c10::DeviceIndex(thread_device)}; }
  void setDevice(c10::Device d) const override {
    if (d.index() >= 0) thread_device = checked(d.index());
  }
  void uncheckedSetDevice(c10::Device d) const noexcept override {
    if (d.index() >= 0) thread_device = d.index();
  }
  c10::Stream getStream(c10::Device d) const override {
    int i = d.index() < 0 ? thread_device : d.index();
    return stream(i, Timeline::get().current(i));
  }
  c10::Stream getDefaultStream(c10::Device d) const override { return stream(d.index() < 0 ? thread_device : d.index(), 0); }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool high) const override { return getNewStream(d, high ? -1 : 0); }
  c10::Stream getNewStream(c10::Device d, int priority) const override {
    int i = d.index() < 0 ? thread_device : d.index();
    return stream(i, Timeline::get().new_stream(i, priority));
  }
  c10::Stream exchangeStream(c10::Stream s) const override {
    int i = s.device_index();
    return stream(i, Timeline::get().exchange_current(i, s.id()));
  }
  void* getStreamNativeHandle(const c10::Stream s) const override { return reinterpret_cast<void*>(s.id()); }
  void destroyEvent(void* e, c10::DeviceIndex) const noexcept override { delete static_cast<Event*>(e); }
  void record(void** e, const c10::Stream& s, c10::DeviceIndex, c10::EventFlag) const override {
    if (!*e) *e = new Event;
    Timeline::get().record(*static_cast<Event*>(*e), s.device_index(), s.id());
  }
  void block(void* e, const c10::Stream& s) const override {
    if (e) Timeline::get().block(*static_cast<Event*>(e), s.device_index(), s.id());
  }
  bool queryEvent(void* e) const override { return !e || Timeline::get().query(*static_cast<Event*>(e)); }
  c10::DeviceIndex deviceCount() const noexcept override { return c10::DeviceIndex(config().count); }
  c10::DeviceCapability getDeviceCapability(c10::Device) const override {
    c10::DeviceCapability all;
    for (auto index : {c10::kIndex_QInt8, c10::kIndex_QUInt8, c10::kIndex_QInt32})  // see kernels::supported
      all.capability_data.capability_bits &= ~(1ull << index);
    return all;
  }
  bool queryStream(const c10::Stream& s) const override { return Timeline::get().query_stream(s.device_index(), s.id()); }
  void synchronizeStream(const c10::Stream& s) const override { Timeline::get().synchronize_stream(s.device_index(), s.id()); }
  bool isStreamCapturing(const c10::Stream& s) const override { return Timeline::get().capturing(s.device_index(), s.id()); }
  void synchronizeEvent(void* e) const override {
    if (e) Timeline::get().synchronize(*static_cast<Event*>(e));
  }
  void synchronizeDevice(const c10::DeviceIndex d) const override { Timeline::get().synchronize_device(d < 0 ? thread_device : d); }
  double elapsedTime(void* a, void* b, c10::DeviceIndex) const override {
    TORCH_CHECK(a && b, "Both events must be recorded before calculating elapsed time.");
    return Timeline::get().elapsed_ms(*static_cast<Event*>(a), *static_cast<Event*>(b));
  }
};

// ------------------------------------------------------------------ device memory
template <c10::DeviceType T>
struct Allocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t n) override {
    c10::Device d(T, c10::DeviceIndex(thread_device));
    if (n == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, d};
    Block* b = Memory::get().allocate(thread_device, n);
    return {b->ptr, b, &delete_block, d};
  }
  void copy_data(void*, const void*, size_t) const override {}
  bool initialized() override { return Memory::get().configured(); }
  void emptyCache(c10::MempoolId_t) override { Memory::get().empty_cache(); }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex d) override { return Memory::get().stats(d); }
  void resetAccumulatedStats(c10::DeviceIndex d) override { Memory::get().reset_accumulated(d); }
  void resetPeakStats(c10::DeviceIndex d) override { Memory::get().reset_peak(d); }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex d) override { return Memory::get().info(d); }
};

// ------------------------------------------------------------------ pinned host memory
struct Pinned final : at::HostAllocator {
  std::mutex mutex;
  std::unordered_map<char*, size_t> live;

  static Pinned& get() {
    static auto* p = new Pinned;
    return *p;
  }
  static void unpin(void* p) {
    size_t n;
    {
      std::lock_guard lock(get().mutex);
      auto it = get().live.find(static_cast<char*>(p));
      if (it == get().live.end()) return;
      n = it->second;
      get().live.erase(it);
    }
    munmap(p, n);
  }
  c10::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, c10::Device(c10::DeviceType::CPU)};
    size_t m = (n + 4095) / 4096 * 4096;
    void* p = mmap(nullptr, m, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TORCH_CHECK(p != MAP_FAILED, "revati: no address space for ", n, " bytes of pinned memory");
    {
      std::lock_guard lock(mutex);
      live[static_cast<char*>(p)] = m;
    }
    return {p, p, &unpin, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* d, const void* s, size_t n) const override { default_copy_data(d, s, n); }
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
  bool holds(const void* p) {
    std::lock_guard lock(mutex);
    for (auto& [base, n] : live)
      if (p >= base && p < base + n) return true;
    return false;
  }
};

// ------------------------------------------------------------------ hooks
template <class Interface, c10::DeviceType T>
struct Hooks : Interface {
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return config().count > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return c10::DeviceIndex(config().count); }
  void setCurrentDevice(c10::DeviceIndex d) const override { set_device(d); }
  c10::DeviceIndex getCurrentDevice() const override { return c10::DeviceIndex(thread_device); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex d) const override {
    int old = thread_device;
    if (d >= 0) set_device(d);
    return c10::DeviceIndex(old);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex d) const override { return exchangeDevice(d); }
  bool isPinnedPtr(const void* p) const override { return Pinned::get().holds(p); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &Pinned::get(); }
  c10::Device getDeviceFromPtr(void*) const override { return {T, c10::DeviceIndex(thread_device)}; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex d) const override {
    static thread_local at::Generator g;
    g = default_generator(d < 0 ? thread_device : d);
    return g;
  }
  at::Generator getNewGenerator(c10::DeviceIndex d) const override {
    return at::make_generator<VirtualGenerator>(c10::Device(T, c10::DeviceIndex(d < 0 ? thread_device : d)));
  }
};

struct CUDAHooks final : Hooks<at::CUDAHooksInterface, c10::DeviceType::CUDA> {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasCuDNN() const override { return true; }
  bool compiledWithCuDNN() const override { return true; }
  bool supportsBFloat16ConvolutionWithCuDNNv8() const override { return true; }
  long versionCuDNN() const override { return 91002; }
  long versionRuntimeCuDNN() const override { return 91002; }
  long versionCUDART() const override { return 13000; }
  std::string showConfig() const override { return "virtual GPU (revati)"; }
  c10::DeviceIndex current_device() const override { return c10::DeviceIndex(thread_device); }
  c10::Allocator* getCUDADeviceAllocator() const override { return device_allocator(); }
  int getNumGPUs() const override { return config().count; }
  void deviceSynchronize(c10::DeviceIndex d) const override { Timeline::get().synchronize_device(d < 0 ? thread_device : d); }
};

struct RevatiHooks final : Hooks<at::PrivateUse1HooksInterface, c10::DeviceType::PrivateUse1> {
  void resizePrivateUse1Bytes(const c10::Storage& s, size_t n) const override { resize_storage(s, n); }
};

template <c10::DeviceType T>
void install_as() {
  static auto& guard = *new Guard<T>;  // never destroyed: tensors may outlive static destructors
  static auto& allocator = *new Allocator<T>;
  the_type = T;
  c10::impl::DeviceGuardImplRegistrar registrar(T, &guard);
  c10::SetAllocator(T, &allocator, 1);
  at::setHostAllocator(T, &Pinned::get(), 1);
  register_kernels(T);
}

}  // namespace

DeviceConfig& config() {
  static auto* c = new DeviceConfig;
  return *c;
}

c10::DeviceType device_type() { return the_type; }
bool installed() { return the_type != c10::DeviceType::CPU; }
int current_device() { return thread_device; }
void set_device(int device) { thread_device = checked(device); }
c10::Allocator* device_allocator() { return c10::GetAllocator(the_type); }

at::Generator default_generator(int device) {
  static std::mutex mutex;
  static auto* all = new std::vector<at::Generator>;
  std::lock_guard lock(mutex);
  while (int(all->size()) <= device)
    all->push_back(at::make_generator<VirtualGenerator>(c10::Device(the_type, c10::DeviceIndex(all->size()))));
  return (*all)[size_t(device)];
}

void install(bool as_cuda) {
  TORCH_CHECK(!installed(), "revati: the virtual GPU is already installed in this process");
  if (as_cuda) {
    at::CUDAHooksRegistry()->Register("CUDAHooks", [](at::CUDAHooksArgs a) -> std::unique_ptr<at::CUDAHooksInterface> {
      return std::make_unique<CUDAHooks>(a);
    });
    install_as<c10::DeviceType::CUDA>();
  } else {
    static auto& hooks = *new RevatiHooks;
    at::RegisterPrivateUse1HooksInterface(&hooks);
    install_as<c10::DeviceType::PrivateUse1>();
  }
  register_graphs(as_cuda);
  watch_forks();
}

}  // namespace revati
