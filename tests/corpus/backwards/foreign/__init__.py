"""Operations that the package does not have, written blind; then the rules were made with these in sight, too."""
