// Package hooks knows what has to be watched on one connection so that no row
// changes unseen: the tables and the schema that it has, the TEMP triggers that
// report what SQLite's update hook does not, how older images of a row relate to
// the present columns of its table, and what a schema statement changed.
//
// The rows themselves are collected and compared in C (internal/shim, capture*.c);
// the order of things is the Session's (package cdc).
package hooks
