//go:build race

package host

// memory is the limit of plugins in tests: the race detector maps far more than it uses.
const memory = -1
