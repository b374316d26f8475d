package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// source is a deterministic source of content: every run of bench measures the same bytes.
type source struct{ *rand.Rand }

func newSource(seed uint64) source { return source{rand.New(rand.NewPCG(seed, 4711))} }

// random returns n bytes that no compressor makes smaller, as keys and certificates are.
func (s source) random(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(s.Uint32())
	}
	return out
}

// text returns about n bytes of settings, which are as repetitive as configuration is.
func (s source) text(n int) string {
	keys := strings.Fields("replicas image timeoutSeconds mountPath logLevel endpoint cacheSize retention schedule cpu memory region bucket prefix owner team stage feature limit interval")
	var out strings.Builder
	for out.Len() < n {
		fmt.Fprintf(&out, "  %s-%s: %s-%d\n", keys[s.IntN(len(keys))], keys[s.IntN(len(keys))], keys[s.IntN(len(keys))], s.IntN(10_000))
	}
	return out.String()
}
