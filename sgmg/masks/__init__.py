"""Masks as pictures, PNG files and run lengths. The ground floor: it imports no other room."""
