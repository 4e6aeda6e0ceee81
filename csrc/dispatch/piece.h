// A compiled piece of a program: after the first call with a signature its code does not run again. What it launches
// is played, and its results are made from what they were the first time.
#pragma once
#include <unordered_map>

#include "dispatch/shape_rule.h"
#include "dispatch/signature.h"
#include "timeline/sequence.h"

namespace revati {

class Piece {
 public:
  enum class Answer { kUnknown, kDirect, kPlayed };

  /// Plays the piece if it knows a call like this one. kDirect: such calls cannot be repeated, run the code.
  Answer call(const std::vector<c10::IValue>& args, std::vector<c10::IValue>* results);

  /// Remembers a call: its results, what it launches (as the compiler fused it), and the most memory that its own
  /// buffers take at once beside the results.
  void keep(const std::vector<c10::IValue>& args, const std::vector<c10::IValue>& results, Sequence sequence, size_t scratch_bytes);

 private:
  struct Result {
    enum Kind { kInput, kView, kNew, kPart, kValue } kind = kValue;
    int index = 0;           // kInput, kView: which argument; kPart: which of `bases`
    int64_t offset = 0;      // kView: relative to the argument's; kPart: in its base
    Output like;
    c10::IValue value;
  };
  struct Known {
    bool direct = false;
    Sequence sequence;
    size_t scratch_bytes = 0;
    std::vector<Output> bases;  // storages that several results share
    std::vector<Result> results;
  };
  static Signature signature(const std::vector<c10::IValue>& args);
  static bool describe(const std::vector<c10::IValue>& args, const std::vector<c10::IValue>& results, Known* known);

  std::unordered_map<Signature, Known, SignatureHash> known_;
};

}  // namespace revati
