#pragma once

namespace simm {

// Turns SIGTERM and SIGINT into something that main can wait for. Block them before any thread is
// started.
void BlockStopSignals();
// One has come that nobody has waited for yet.
bool StopSignalPending();
// Returns the signal's number once one has come.
int WaitForStopSignal();

}  // namespace simm
