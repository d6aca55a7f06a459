"""What a main network made of any module needs: its parameters, calls of it, its inputs and outputs."""
