"""Run a command with one Ray head for all that it starts: python -m commands.cluster COMMAND [ARGUMENT ...]."""

from pipeline.running import supervisor

if __name__ == "__main__":
    supervisor.main()
