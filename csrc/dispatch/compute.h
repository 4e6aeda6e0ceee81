// The results of a call: made without values, or computed on host memory where every input is live.
#pragma once
#include "dispatch/shape_rule.h"

namespace revati {

/// Outputs as the shape rule says; those that are new are phantom where `phantom`, or hold policy values.
c10::IValue build(const Output& o, const c10::IValue* args, size_t n, int device, bool phantom);

/// Makes what a call writes into phantom: policy values for small integers, zero for error codes.
void write_phantom(const OpInfo& info, const c10::IValue* args);
void clear_error_codes(const OpInfo& info, const c10::IValue* results, size_t n);

/// Computes the op on host memory. Throws what the CPU kernel throws.
void run_live(const c10::OperatorHandle& op, const c10::IValue* args, size_t n, int device, torch::jit::Stack* out);
int64_t live_runs();

/// Repeats a live computation at every replay of the graph being captured.
void rerun_at_replay(const c10::OperatorHandle& op, const c10::IValue* args, size_t n, int device, const torch::jit::Stack& first);

}  // namespace revati
