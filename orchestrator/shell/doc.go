// Package shell runs scripts and programs at the places where people's programs and databases are: on
// the runner, on a machine over SSH, and in a pod through the API server.
//
// A script is a text for sh, or a program with its arguments, with what it reads and where its output goes.
// A place runs scripts. What differs between places is how a script gets there, and how its processes are
// ended: neither may outlive whoever asked for it, and an end that nobody saw counts as none.
package shell
