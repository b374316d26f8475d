//go:build !race

package host

// memory is the limit of plugins in tests.
const memory = 512 << 20
