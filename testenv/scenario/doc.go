// Package scenario plays the worst day: a lab cluster is filled, captured with the muster command as
// a user runs it, destroyed machine by machine, and rebuilt; then what is there is compared with what
// was there, by means that share no code with Muster.
package scenario
