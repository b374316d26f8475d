// Package corpus is the list of what a replay has to bring back: small sets of objects that have hurt
// somebody, each with what must stand in the other cluster afterwards.
//
// A Case is one file of cases/. Its first document is the head: who is hurt when it goes wrong, what
// stands in the target before, and what must and must not stand there afterwards. The other documents
// are the source's objects, in the order in which they came to be. The source is the cluster that is
// captured, the target the one that is replayed into. A Replay is one run of the step
// replay-namespaces: most cases share one, and a case that asks for settings has its own.
//
// All cases live in one cluster at once. So what a case makes carries the case's name: a namespaced
// object that names no namespace stands in the namespace called like the case. Namespaces are made as needed.
// Kinds that clusters without their operators lack are served by stand-ins of definitions/. Chosen ports
// and addresses are of the ranges that API servers do not give out by themselves while they can: 30000 to
// 30085, 10.96.0.0/24.
//
// In documents:
//
//	$(uid:Kind/name)             the UID of an object of the case in the cluster at hand; Kind/namespace/name too
//	$(fill:900000)               as many characters of text
//	status                       is written to the status subresource where there is one
//	metadata.deletionTimestamp   the object is deleted once the case is complete: finalizers hold it
//
// What is wanted is a part: a map holds at least its keys, a list is equal, or {contains: [...]}, and
// everything else is equal. $(any) is any value that is not empty, $(not:31010)
// any other than this one, and $(absent) is none.
//
// The package shares no code with what it judges.
package corpus
