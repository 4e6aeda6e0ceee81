// Values on their way into a block: a rank has launched a receive, and what the sender contributes is not known yet. On a
// GPU such a launch returns at once; here, whoever asks what the block holds waits for the values first, and nobody else.
#pragma once
#include <memory>

namespace revati {

struct Block;

class Incoming {
 public:
  virtual ~Incoming() = default;
  /// True if arrive() need not wait.
  virtual bool here() = 0;
  /// Writes the values, once; later calls do nothing. May wait for another rank.
  virtual void arrive() = 0;
  /// The block is gone: nobody will ever read them.
  virtual void drop() = 0;
};

/// `values` will be in `b`.
void expect(Block* b, std::shared_ptr<Incoming> values);
/// Everything on its way into `b` arrives.
void settle(Block* b);
/// Nothing on its way into `b` is wanted any more.
void drop_incoming(Block* b);

}  // namespace revati
