package kubeadm

import (
	"fmt"
	"net"
	"regexp"
	"sort"
	"strings"
)

// Renaming maps what a cluster's machines were to what they are. Machines that keep their name or
// address map to themselves.
type Renaming struct {
	Names     map[string]string // node names, old to new
	Addresses map[string]string // IP addresses, old to new
	// OldEndpoint and Endpoint are host:port of the API server as kubeconfigs name it.
	OldEndpoint, Endpoint string
	// Peers is etcd's --initial-cluster: "a=https://10.0.0.1:2380,b=…".
	Peers string
}

// Moves reports whether anything is called otherwise, or is elsewhere, than it was.
func (r Renaming) Moves() bool {
	for _, names := range []map[string]string{r.Names, r.Addresses} {
		for before, now := range names {
			if before != now {
				return true
			}
		}
	}
	return r.OldEndpoint != r.Endpoint
}

// Name is what a node is called now.
func (r Renaming) Name(before string) string { return mapped(r.Names, before) }

// Address is where an address is now.
func (r Renaming) Address(before string) string { return mapped(r.Addresses, before) }

func mapped(names map[string]string, before string) string {
	if now, ok := names[before]; ok {
		return now
	}
	return before
}

// EndpointAfter is the endpoint that clients shall use when nobody names one: the old one where its
// host is a name or the address of a machine that is still there, else the first API server.
func (r Renaming) EndpointAfter(firstAPIServer string) string {
	host, port, err := net.SplitHostPort(r.OldEndpoint)
	if err != nil {
		return firstAPIServer
	}
	if net.ParseIP(host) == nil {
		return r.OldEndpoint
	}
	if now, ok := r.Addresses[host]; ok {
		return net.JoinHostPort(now, port)
	}
	return firstAPIServer
}

// addresses replaces whole addresses in a text. All are replaced in one pass, so that machines may
// swap their addresses.
func (r Renaming) addresses(text string) string { return replaceWhole(text, r.Addresses, ".:") }

// names replaces whole names in a text.
func (r Renaming) names(text string) string { return replaceWhole(text, r.Names, "-.") }

// replaceWhole replaces words that the table knows. A word consists of letters, digits and the given
// marks; marks at its end do not count, and a port after an IPv4 address is not a part of it.
func replaceWhole(text string, table map[string]string, marks string) string {
	known := make([]string, 0, len(table))
	for word := range table {
		known = append(known, word)
	}
	sort.Slice(known, func(i, j int) bool { return len(known[i]) > len(known[j]) }) // the longest match wins
	var out strings.Builder
	for at := 0; at < len(text); {
		word := wordAt(text, at, known, marks)
		if word == "" {
			out.WriteByte(text[at])
			at++
			continue
		}
		out.WriteString(table[word])
		at += len(word)
	}
	return out.String()
}

func wordAt(text string, at int, known []string, marks string) string {
	if at > 0 && inWord(text[at-1], marks) && text[at-1] != ':' {
		return ""
	}
	for _, word := range known {
		if !strings.HasPrefix(text[at:], word) {
			continue
		}
		rest := text[at+len(word):]
		if rest == "" || !inWord(rest[0], marks) || rest[0] == ':' && !strings.Contains(word, ":") {
			return word
		}
	}
	return ""
}

func inWord(c byte, marks string) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(marks, c) >= 0
}

var (
	serverLine     = regexp.MustCompile(`(?m)^(\s*server: "?https://)([^/"\s]+)`)
	nodeUser       = regexp.MustCompile(`system:node:[A-Za-z0-9.-]+`)
	nameFlag       = regexp.MustCompile(`--(name|hostname-override)=([A-Za-z0-9.-]+)`)
	initialCluster = regexp.MustCompile(`--initial-cluster=[^\s"]+`)
	advertiseFlag  = regexp.MustCompile(`--advertise-address=(\S+)`)
)

// Kubeconfig gives a kubeconfig its new server and node name.
func (r Renaming) Kubeconfig(text string) string {
	text = serverLine.ReplaceAllStringFunc(text, func(line string) string {
		parts := serverLine.FindStringSubmatch(line)
		if parts[2] == r.OldEndpoint {
			return parts[1] + r.Endpoint
		}
		return parts[1] + r.addresses(parts[2])
	})
	return nodeUser.ReplaceAllStringFunc(text, func(user string) string {
		return "system:node:" + r.Name(strings.TrimPrefix(user, "system:node:"))
	})
}

// Manifest gives a static pod its new names and addresses. Names are replaced in flags alone: a
// machine may be called "etcd".
func (r Renaming) Manifest(text string) string {
	return initialCluster.ReplaceAllString(r.Flags(text), "--initial-cluster="+r.Peers)
}

// Flags gives the kubelet's flags their new names and addresses.
func (r Renaming) Flags(text string) string {
	return nameFlag.ReplaceAllStringFunc(r.addresses(text), func(flag string) string {
		parts := nameFlag.FindStringSubmatch(flag)
		return fmt.Sprintf("--%s=%s", parts[1], r.Name(parts[2]))
	})
}

// Hosts gives /etc/hosts its new lines.
func (r Renaming) Hosts(text string) string { return r.names(r.addresses(text)) }

// ClusterConfiguration gives kubeadm's own configuration its new endpoint and addresses.
func (r Renaming) ClusterConfiguration(text string) string {
	if r.OldEndpoint != "" {
		text = strings.ReplaceAll(text, "controlPlaneEndpoint: "+r.OldEndpoint+"\n", "controlPlaneEndpoint: "+r.Endpoint+"\n")
	}
	return r.addresses(text)
}

// AdvertiseAddress is the address that an API server's static pod announces; empty without the flag.
func AdvertiseAddress(manifest string) string {
	found := advertiseFlag.FindStringSubmatch(manifest)
	if found == nil {
		return ""
	}
	return found[1]
}

// EndpointOf is the host:port of the first server of a kubeconfig; empty when it names none.
func EndpointOf(kubeconfig string) string {
	found := serverLine.FindStringSubmatch(kubeconfig)
	if found == nil {
		return ""
	}
	return found[2]
}
