package wire

// ReplaySQL asks package server, inside a transaction, not to fire the triggers
// whose names are in the JSON array that is its argument, until the transaction
// ends or ReplaySQL stands there again; an empty array has all of them fire. It is
// this text to the letter. To other servers it is a function that does not exist.
const (
	ReplayName = "tursosync_replay"
	ReplaySQL  = "SELECT " + ReplayName + "(?)"
)
