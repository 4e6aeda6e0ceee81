// frames.h: the bytes of the socket protocol (docs/protocol.md). Little endian, no padding.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>

namespace revati::warp {

constexpr uint8_t kProtocolVersion = 1;
constexpr uint32_t kLargestPayload = 4096;
constexpr uint32_t kHelloMagic = 0x43564552;  // "REVC"

enum FrameType : uint8_t {
  kHello = 1, kWaitUntil = 2, kAskTime = 3, kWake = 4, kCollective = 5, kLeave = 6,
  kWelcome = 128, kWoken = 129, kTime = 130, kDone = 131, kError = 132
};
enum ErrorCode : uint16_t {
  kBadFrame = 1, kBadVersion = 2, kBadToken = 3, kBadState = 4, kTooMany = 5, kTooSlow = 6, kCollectiveLost = 7
};

struct FrameHeader {
  uint32_t size;  // of the payload
  uint8_t type, version;
  uint16_t reserved;
};
static_assert(sizeof(FrameHeader) == 8);

// Reads fields off a payload; `ok` turns false when it is too short.
class Reader {
 public:
  explicit Reader(const std::string& s) : s_(s) {}
  template <class T>
  T take() {
    T v{};
    if (s_.size() - at_ < sizeof v) ok = false;
    else memcpy(&v, s_.data() + at_, sizeof v), at_ += sizeof v;
    return v;
  }
  std::string text(size_t n) {
    if (s_.size() - at_ < n) {
      ok = false;
      return "";
    }
    at_ += n;
    return s_.substr(at_ - n, n);
  }
  bool complete() const { return ok && at_ == s_.size(); }
  bool ok = true;

 private:
  const std::string& s_;
  size_t at_ = 0;
};

template <class... T>
std::string frame(FrameType type, const T&... fields) {
  std::string payload;
  (payload.append(reinterpret_cast<const char*>(&fields), sizeof fields), ...);
  FrameHeader h = {uint32_t(payload.size()), type, kProtocolVersion, 0};
  return std::string(reinterpret_cast<const char*>(&h), sizeof h) + payload;
}

}  // namespace revati::warp
