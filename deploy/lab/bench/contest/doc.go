// Package contest is the part of the benchmark that runs in the machine: it makes two pools of the machine's disk, starts two daemons,
// prepares the other contestants, measures them in turns, and writes a bench.Report.
//
// It is a test binary (build tag lab), pushed to the machine and run there by package bench. It destroys the machine's pool `tank`.
package contest
