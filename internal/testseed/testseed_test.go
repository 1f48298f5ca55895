package testseed

import "testing"

func TestNew(t *testing.T) {
	t.Setenv(Env, "")
	if one, two := New(t), New(t); one == two {
		t.Error("two seeds are equal")
	}
	t.Setenv(Env, "18446744073709551615")
	if got := New(t); got != 1<<64-1 {
		t.Errorf("New = %d, want the one of the environment", got)
	}
}
