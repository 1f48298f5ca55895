package cdc

import (
	"context"
	"errors"
)

// MutationOptions steer Mutations. The zero value is the usual way.
type MutationOptions struct {
	// Transform, if not nil, is asked for each row change; changes are not
	// collapsed then.
	Transform Transform
	// DeletesFirst sends the changes of each transaction as deletes of all the
	// rows that it touched, followed by inserts of whole rows. It is the second
	// try for a transaction that the remote refused because of a unique
	// constraint: rows may have swapped unique values.
	DeletesFirst bool
}

// Mutations turns transactions into the statements that do the same on the
// remote, in order. An empty result is possible: everything was skipped, or
// cancelled out.
func Mutations(ctx context.Context, txns [][]Change, opts MutationOptions) ([]Mutation, error) {
	return nil, errors.ErrUnsupported
}
