package host

// IsLab tells whether a process is one of the lab's.
var IsLab = belongsTo
