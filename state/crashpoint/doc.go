// Package crashpoint lets tests end the process at named points of the code.
//
// Built with the tag "crashpoints", a process whose environment holds MUSTER_CRASHPOINT=<name> kills
// itself when it comes to that point; MUSTER_CRASHPOINT=<name>:<n> waits for the n-th time. Built
// without the tag, Here is empty.
package crashpoint

// Names are all points there are.
func Names() []string {
	return []string{
		"journal.before-append",
		"journal.after-append",
		"step.before-do",
		"step.after-do",
		"journal.before-archive",
		"journal.after-archive",
		"undo.before-undo",
		"undo.after-undo",
	}
}
