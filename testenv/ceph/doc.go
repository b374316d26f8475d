// Package ceph runs a real Ceph cluster as processes of this machine, for tests that fill, stop and lose it.
//
// A cluster is one monitor, one manager, one OSD (BlueStore on a sparse file of bounded size) and, when it
// is asked for, one metadata server with a CephFS called "cephfs". cephx is on. Everything lies in one
// folder; Close ends the processes by their IDs and removes it, and Start first does the same with what a
// crash left there.
package ceph
