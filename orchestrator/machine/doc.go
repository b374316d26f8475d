// Package machine reaches machines over SSH: runs commands, reads and writes files, and captures and
// restores root filesystems and attached devices.
//
// A host is one machine behind one SSH connection. Everything on it is done with the tools of a
// plain Linux: GNU tar, coreutils and util-linux; Muster installs nothing there.
package machine
