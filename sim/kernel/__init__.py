"""Linux and KVM: which XSAVE-related operations run when, with which masks; no clock."""
